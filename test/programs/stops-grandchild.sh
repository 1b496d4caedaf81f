#!/bin/sh
# Its grandchild is stopped (SIGSTOP).
sh -c 'sleep 300 & kill -STOP $!; echo ready; wait' &
wait
