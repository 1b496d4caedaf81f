#!/bin/sh
# Writes a line for each HUP it gets.
trap 'echo hup' HUP
echo ready
while :; do sleep 60 & wait $!; done
