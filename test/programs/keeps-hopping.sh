#!/bin/sh
# A stray that minds no TERM and is another process in another session every few milliseconds, for 60 s:
# each starts the next and ends. The leader minds no TERM either, and stays.
read -r now _ </proc/uptime
now=${now%.*}
if [ $# -eq 0 ]; then
  trap '' TERM
  setsid "$0" $((now + 60)) &
  echo ready
  exec sleep 300
fi
if [ "$now" -lt "$1" ]; then
  setsid "$0" "$1" &
fi
