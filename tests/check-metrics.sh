#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What Prometheus's own checker has to say about the metrics' text: it must read it all, and find
# no fault with a name, a type or a HELP. Skipped, loudly, where there is no promtool.
#
#   tests/check-metrics.sh     in a build directory, after `make tests/unit/check_units`
set -euo pipefail

units=${builddir:-.}/tests/unit/check_units
if ! command -v promtool >/dev/null; then
	echo "SKIPPED: no promtool here (package prometheus): nobody has checked the metrics" >&2
	exit 77
fi
if ! [ -x "$units" ]; then
	echo "SKIPPED: $units is not built (no Check?)" >&2
	exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

MQTTGW_METRICS_TO=$scratch/metrics "$units" metrics >/dev/null
[ -s "$scratch/metrics" ]

# check NAME: status 0 when promtool has nothing to say.
check() {
	local said
	said=$(promtool check metrics <"$scratch/$1" 2>&1) && [ -z "$said" ] && return
	printf '%s\n' "$said"
	return 1
}

# Does it find what it is to find?
sed '/^# HELP mqttgw_queue_bytes /d' "$scratch/metrics" >"$scratch/no-help"
sed 's/mqttgw_store_commits_total/mqttgw_store_commits/' "$scratch/metrics" >"$scratch/name"
sed '0,/} 0$/s//} 0 0 0/' "$scratch/metrics" >"$scratch/syntax"
for wrong in no-help name syntax; do
	if cmp -s "$scratch/$wrong" "$scratch/metrics" || check "$wrong" >/dev/null; then
		echo "self-test: $wrong was not made, or not found" >&2
		exit 1
	fi
done

check metrics
echo "$(grep -c '^# TYPE' "$scratch/metrics") metrics, no complaint"
