#!/bin/sh
# The leader ends by itself with 5 and leaves a child that got away by the words given, such as: setsid.
: "$("$@" sh -c 'exec sleep 300 >/dev/null' &)"
echo ready
exit 5
