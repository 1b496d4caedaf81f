#!/bin/sh
# Its child, the command given, runs in a session of its own; so the child says ready.
setsid "$@" &
wait
