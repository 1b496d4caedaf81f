#!/bin/sh
# A daemon made in the classic way (fork, setsid, fork), by way of the words given, such as: env -i.
# The end of its output, which the daemon gives up last, says that it stands. The leader stays too.
: "$("$@" setsid sh -c 'sh -c "exec sleep 300 >/dev/null" &')"
echo ready
exec sleep 300
