#!/bin/sh
# The leader ends at once on TERM, its child ignores it.
sh -c 'trap "" TERM; echo ready $$; while :; do sleep 60; done' &
wait
