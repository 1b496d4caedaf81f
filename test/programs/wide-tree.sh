#!/bin/sh
# A leader with $1 children, by way of the words given, such as: setsid.
left=$1
shift
while [ "$left" -gt 0 ]; do
  "$@" sleep 300 &
  left=$((left - 1))
done
echo ready
wait
