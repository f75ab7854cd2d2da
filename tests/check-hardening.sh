#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What configure promises is in the programs: position independent, read-only after relocation, all
# symbols bound at the start, no executable stack or writable code, guarded stacks, bounded copies. And
# the units are as tight as SECURITY.md says, by systemd's own judgement.
#
#   tests/check-hardening.sh [BUILD-DIRECTORY]
#
# 77, skipped, for a build with sanitizers, coverage or without optimising: they bring code of their own.
set -euo pipefail
export LC_ALL=C

cd "${1:-.}"
value() { sed -n "s/^$1 = //p" Makefile; }
flags=" $(value HARDEN_CFLAGS) $(value EXTRA_CFLAGS) $(value CFLAGS) $(value LDFLAGS) "
case $flags in
*-fsanitize=* | *--coverage*)
	echo "check-hardening: not for this build"
	exit 77
	;;
esac
if ! command -v readelf >/dev/null; then
	echo "check-hardening: there is no readelf"
	exit 77
fi

failures=0
fail() {
	echo "$1: $2" >&2
	failures=$((failures + 1))
}

# has PROGRAM WHAT TEXT PATTERN; has_not: the same turned round
has() { grep -Eq -- "$4" <<<"$3" || fail "$1" "$2"; }
has_not() { ! grep -Eq -- "$4" <<<"$3" || fail "$1" "$2"; }

programs=0
for program in mqtt-gatewayd mqttgwctl mqttgw-report; do
	[ -x "$program" ] || continue
	programs=$((programs + 1))
	header=$(readelf --wide --file-header "$program")
	segments=$(readelf --wide --program-headers "$program")
	dynamic=$(readelf --wide --dynamic "$program")
	symbols=$(readelf --wide --dyn-syms "$program")
	has "$program" "no position independent executable" "$header" 'Type: +DYN '
	has "$program" "no position independent executable, a library" "$segments" ' INTERP '
	has "$program" "not read-only after relocation" "$segments" ' GNU_RELRO '
	has "$program" "not all symbols are bound at the start" "$dynamic" '\(FLAGS(_1)?\).*NOW'
	has "$program" "says nothing of its stack" "$segments" ' GNU_STACK '
	has_not "$program" "its stack is executable" "$segments" ' GNU_STACK .* RWE '
	has_not "$program" "memory to write and to run" "$segments" ' LOAD .* RWE '
	has_not "$program" "code is relocated" "$dynamic" 'TEXTREL'
	has_not "$program" "a library path of its own" "$dynamic" '\((RPATH|RUNPATH)\)'
	[[ $flags != *-fstack-protector* ]] ||
		has "$program" "no guards on the stack" "$symbols" ' __stack_chk_fail'
	# Without optimising there is nothing to be known of bounds.
	if [[ $flags == *-D_FORTIFY_SOURCE=* && $flags != *" -O0 "* ]]; then
		has "$program" "no bounded copies" "$symbols" ' __[a-z]+_chk'
	fi
done
[ "$programs" -gt 0 ] || fail "$PWD" "no programs"

# Of a program only if the C library's own parts have it, too; so of ours.
if [[ $flags == *-fcf-protection=full* ]]; then
	notes=$(readelf --notes src/libmqttgw.a)
	objects=$(ar t src/libmqttgw.a | wc -l)
	[ "$(grep -c 'x86 feature: IBT, SHSTK' <<<"$notes")" -eq "$objects" ] ||
		fail src/libmqttgw.a "objects without control flow protection"
fi

# Tenths; the same as in tests/system/test_confinement.py.
if systemd-analyze --help 2>/dev/null | grep -q -- --offline; then
	for unit in mqtt-gatewayd:15 mqttgw-report:10; do
		file=systemd/${unit%:*}.service
		[ -e "$file" ] || continue
		systemd-analyze security --offline=true --no-pager --threshold="${unit#*:}" "$file" \
			>/dev/null 2>&1 || fail "$file" "more exposed than ${unit#*:} tenths"
	done
fi

[ "$failures" -eq 0 ] || exit 1
echo "check-hardening: $programs programs and their units are as configure and SECURITY.md say"
