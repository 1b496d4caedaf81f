#!/bin/sh
# A leader with one child in its group; both live until they are ended.
sleep 1000 &
echo ready $!
wait
