#!/bin/sh
# On TERM it needs half a second, then finishes the file $1 and exits with 3. It is the child that says
# ready: a TERM between its fork and its exec would be lost on it, and it would live until KILL.
trap 'sleep 0.5; echo finished >"$1"; exit 3' TERM
while :; do sh -c 'echo ready; exec sleep 60' & wait $!; done
