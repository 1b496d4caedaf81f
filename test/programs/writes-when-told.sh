#!/bin/sh
# Writes the lines 1 to $2, each by itself; told by a line in the pipe $1, as many again; told once more,
# a word to stderr, and it exits with 3.
write() {
  i=$1
  while [ "$i" -le "$2" ]; do
    echo "$i é€😀"
    i=$((i + 1))
  done
}
write 1 "$2"
read -r _ <"$1"
write $(($2 + 1)) $(($2 * 2))
read -r _ <"$1"
echo complaint >&2
exit 3
