#!/bin/sh
# Stops itself (SIGSTOP); if it is ever continued, its TERM handler writes the file $1.
trap 'echo handled >"$1"; exit 0' TERM
echo ready
kill -STOP $$
while :; do sleep 60 & wait $!; done
