#!/bin/sh
# On TERM it needs half a second, then finishes the file $1 and exits with 3.
trap 'sleep 0.5; echo finished >"$1"; exit 3' TERM
echo ready
while :; do sleep 60 & wait $!; done
