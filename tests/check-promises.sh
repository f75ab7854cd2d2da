#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Each promise of mqttgw-promises(7) names tests; are they there?
set -euo pipefail

top=${srcdir:-$(dirname "$0")/..}
page=${1:-$top/man/mqttgw-promises.7}

# missing PAGE: the tests named there that do not exist; then "N passed, N failed".
check() {
	local name file test passed=0 failed=0
	while read -r name; do
		file=$top/${name%%::*}
		test=${name##*::}
		if [ -f "$file" ] && grep -qE "(def $test\(|START_TEST\($test\))" "$file"; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			echo "$1: there is no test $name"
		fi
	done < <(grep -oE 'tests/[a-z0-9_/]+\.(py|c)::[a-z0-9_]+' "$1")
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# Would it notice?
scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT
echo '.Pa tests/soak/test_soak.py::test_that_nobody_wrote' >"$scratch"
if check "$scratch" >/dev/null; then
	echo "self-test failed: a missing test was not noticed" >&2
	exit 1
fi
check "$page"
