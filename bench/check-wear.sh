#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# bench/wear runs, and more messages a commit cost fewer bytes each.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
out=$("${builddir:-.}/bench/wear" --messages 600 --bytes 200 "$dir")
echo "$out"
written() { awk -v batch="$1" '$1 == batch && $2 == "with" { print $5 }' <<<"$out"; }
one=$(written 1)
hundred=$(written 100)
[ "$one" -gt $((hundred * 3)) ]
[ -z "$(ls "$dir")" ]
