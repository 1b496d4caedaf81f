#!/bin/sh
# On TERM it leaves two children that heard none, one in its group and one in a session of its own.
trap 'sleep 300 & setsid sleep 300 & exit 0' TERM
echo ready
for _ in 1 2 3 4 5; do sleep 60 & wait $!; done
