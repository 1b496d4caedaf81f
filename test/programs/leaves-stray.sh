#!/bin/sh
# The leader ends by itself with 5 and leaves a child in its group; the child's pid is in the file $1.
sleep 1000 &
echo $! >"$1"
echo ready
exit 5
