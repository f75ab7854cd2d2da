#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# All unit tests, the suites that take longest beside the others.
#
#   tests/unit/run.sh [COMMAND]...     COMMAND runs the program: valgrind and its options, say
#
# Some measure time, on a machine that may be busy: cases that fail are run again alone, and said to
# be unsteady if they pass then. What ends the program is no such failure.
set -euo pipefail

run=("$@" "${builddir:-.}/tests/unit/check_units")
longest=(queue_rot queue_age queue_space)

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
"${run[@]}" "${longest[@]}" >"$logs/longest" 2>&1 &
first=0 second=0
"${run[@]}" --but "${longest[@]}" >"$logs/others" 2>&1 || first=$?
wait $! || second=$?
cat "$logs/others" "$logs/longest"

# Check says 1; anything else is a crash, or what COMMAND found.
status=$((first > second ? first : second))
[ "$status" -eq 1 ] || exit "$status"
mapfile -t cases < <(sed -nE 's/^[^:]+:[0-9]+:[FE]:([^:]+):.*/\1/p' "$logs"/* | sort -u)
[ ${#cases[@]} -gt 0 ] || exit "$status"
for case in "${cases[@]}"; do
	echo "--- $case again, alone ---"
	CK_RUN_CASE=$case "${run[@]}"
done
printf 'UNSTEADY: unit tests: %s passed only alone\n' "${cases[@]}"
