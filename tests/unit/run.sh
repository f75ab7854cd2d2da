#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# All unit tests, in processes of about the same length: the suites that compute longest, those that
# wait longest, and the others.
#
#   tests/unit/run.sh [--computing SUITES] [COMMAND]...
#
# COMMAND runs the program: valgrind and its options, say. --computing: of those that compute longest
# these alone.
#
# Some measure time, on a machine that may be busy: cases that fail are run again alone, and said to
# be unsteady if they pass then. What ends the program is no such failure.
set -euo pipefail

computing="queue_rot queue_age queue_space"
waiting="discovery httpd"
those=$computing
if [ "${1:-}" = --computing ]; then
	those=$2
	shift 2
fi
run=("$@" "${builddir:-.}/tests/unit/check_units")

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
pids=()
for suites in "$those" "$waiting" "--but $computing $waiting"; do
	read -ra arguments <<<"$suites"
	"${run[@]}" "${arguments[@]}" >"$logs/${#pids[@]}" 2>&1 &
	pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
	one=0
	wait "$pid" || one=$?
	[ "$one" -le "$status" ] || status=$one
done
cat "$logs"/*

# Check says 1; anything else is a crash, or what COMMAND found.
[ "$status" -eq 1 ] || exit "$status"
mapfile -t cases < <(sed -nE 's/^[^:]+:[0-9]+:[FE]:([^:]+):.*/\1/p' "$logs"/* | sort -u)
[ ${#cases[@]} -gt 0 ] || exit "$status"
for case in "${cases[@]}"; do
	echo "--- $case again, alone ---"
	CK_RUN_CASE=$case "${run[@]}"
done
printf 'UNSTEADY: unit tests: %s passed only alone\n' "${cases[@]}"
