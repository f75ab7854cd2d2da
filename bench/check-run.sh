#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every measurement of bench/run works, with small sizes; instructions have a check of their own.
# What comes of it is not judged: a busy machine would be.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mapfile -t names < <("${srcdir:-.}/bench/run" --names | grep -vx instructions)
timeout 120 "${srcdir:-.}/bench/run" --quick --only "${names[@]}" --build "${builddir:-.}" \
	--dir "$dir" --json "$dir/figures.json" --svg "$dir"
for picture in aims payload backlog; do
	grep -q '</svg>' "$dir/performance-$picture.svg"
done
grep -q '"met"' "$dir/figures.json"
[ -z "$(find "$dir" -mindepth 1 -name 'mqttgw-bench-*')" ]
