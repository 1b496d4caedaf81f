#!/bin/sh
# Grows to $1 processes that mind no TERM: each starts two more in sessions of their own, which share
# what is left to start. Says ready when it begins.
trap '' TERM
[ -n "$2" ] || echo ready
left=$((($1 - 1) / 2))
right=$(($1 - 1 - left))
[ "$left" -eq 0 ] || setsid "$0" "$left" inner &
[ "$right" -eq 0 ] || setsid "$0" "$right" inner &
exec sleep 300
