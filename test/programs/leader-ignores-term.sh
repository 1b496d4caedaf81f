#!/bin/sh
# The leader minds no TERM, its children do.
trap : TERM
sleep 300 &
echo ready
for _ in 1 2 3 4 5; do sleep 60; done
