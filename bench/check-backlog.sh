#!/bin/sh
# SPDX-License-Identifier: MIT
# A small backlog for `make check`: it goes in and out again, and the file shrinks.
set -eu
: "${builddir:=.}"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$builddir/bench/backlog" --rows 30000 --bytes 200 --drain "$dir/queue.db" >"$dir/table"
cat "$dir/table"
awk '/^database before tidying/ { before = $4 } /^database after it/ { after = $4 }
	END { exit !(before > 6 && after > 0 && after < 2) }' "$dir/table" || {
	echo "the file did not shrink from 7 MB to 1 MB"
	exit 1
}
