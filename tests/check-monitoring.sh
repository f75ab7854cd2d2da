#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Dashboard and rules in doc/: well-formed, they name no metric that the daemon does not have, and
# the rules pass their tests. Skipped, loudly, where promtool or jq is not there.
#
#   tests/check-monitoring.sh     in a build directory, after `make tests/unit/check_units`
set -euo pipefail

doc=${srcdir:-$(dirname "$0")/..}/doc
units=${builddir:-.}/tests/unit/check_units
for tool in promtool jq "$units"; do
	if ! command -v "$tool" >/dev/null; then
		echo "SKIPPED: no $tool here: nobody has checked dashboard and rules" >&2
		exit 77
	fi
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What the daemon has, and what the rules make of it.
MQTTGW_METRICS_TO=$scratch/metrics "$units" metrics >/dev/null
{
	awk '$1 == "#" && $2 == "TYPE" && $4 == "histogram" {
		print $3 "_bucket"; print $3 "_sum"; print $3 "_count"; next }
		$1 == "#" && $2 == "TYPE" { print $3 }' "$scratch/metrics"
	sed -n 's/^ *- record: //p' "$doc/prometheus-rules.yml"
} | sort -u >"$scratch/known"
[ "$(wc -l <"$scratch/known")" -gt 20 ]

# unknown FILE: the metrics it names that there are not.
unknown() {
	grep -oE '\bmqttgw[_:][a-z0-9_:]+' "$1" | sort -u | comm -23 - "$scratch/known"
}

# check_names FILE
check_names() {
	local names
	names=$(unknown "$1")
	[ -z "$names" ] && return
	echo "$1: there is no such metric: ${names//$'\n'/ }"
	return 1
}

# test_rules RULES: whether they pass the tests of the real ones.
test_rules() {
	mkdir -p "$scratch/rules"
	cp "$1" "$scratch/rules/prometheus-rules.yml"
	cp "$doc/prometheus-rules-test.yml" "$scratch/rules/test.yml"
	promtool check rules "$scratch/rules/prometheus-rules.yml" >"$scratch/said" 2>&1 &&
		promtool test rules "$scratch/rules/test.yml" >>"$scratch/said" 2>&1
}

# Would it notice? A wrong name, and each alert gone or never reached.
rules=$doc/prometheus-rules.yml
sed 's/mqttgw_queue_bytes/mqttgw_queue_octets/' "$rules" >"$scratch/wrong"
if check_names "$scratch/wrong" >/dev/null; then
	echo "self-test: a wrong name was not noticed" >&2
	exit 1
fi
alerts=$(sed -n 's/^ *- alert: //p' "$rules")
for alert in $alerts; do
	sed "s/- alert: $alert\$/- alert: Other/" "$rules" >"$scratch/wrong"
	if test_rules "$scratch/wrong"; then
		echo "self-test: $alert has no test" >&2
		exit 1
	fi
done

# What an operator does about it belongs to each.
for key in summary description action severity; do
	[ "$(grep -c "^ *$key: " "$rules")" -eq "$(wc -w <<<"$alerts")" ]
done
check_names "$rules"
if ! test_rules "$rules"; then
	cat "$scratch/said"
	exit 1
fi

# The dashboard: no two panels in one place or of one number, each with something to show.
board=$doc/grafana-dashboard.json
jq -e '(.panels | length) > 10
	and (.panels | map(.id) | unique | length) == (.panels | length)
	and (.panels | map([.gridPos.x, .gridPos.y]) | unique | length) == (.panels | length)
	and all(.panels[]; .gridPos.x + .gridPos.w <= 24)
	and all(.panels[].targets[]; .expr | contains("instance=~\"$instance\""))
	and all(.panels[]; .datasource.uid == "${DS_PROMETHEUS}")
	and .__inputs[0].name == "DS_PROMETHEUS"' "$board" >/dev/null
check_names "$board"

# Its expressions are ones that Prometheus reads.
# shellcheck disable=SC2016 # Grafana's variables, not the shell's
jq -r '.panels[].targets[].expr' "$board" |
	sed -e 's/\$__rate_interval/5m/g' -e 's/\$instance/.*/g' >"$scratch/expressions"
{
	printf 'groups:\n- name: board\n  rules:\n'
	awk '{ gsub(/\x27/, "\x27\x27"); printf "  - record: board:%d\n    expr: \x27%s\x27\n", NR, $0 }' \
		"$scratch/expressions"
} >"$scratch/board.yml"
if ! promtool check rules "$scratch/board.yml" >"$scratch/said" 2>&1; then
	cat "$scratch/said"
	exit 1
fi
echo "$(wc -w <<<"$alerts") alerts with tests, $(wc -l <"$scratch/expressions") expressions"
