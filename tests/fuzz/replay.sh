#!/bin/sh
# SPDX-License-Identifier: MIT
# Feeds each fuzz target its seeds and every case that was ever found. The targets' programs are in
# $builddir, the inputs in $srcdir.
: "${srcdir:=.}" "${builddir:=.}"

failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for target in frame_json topic config control brokers mqtt mqtt_guard netwatch queue srv access; do
	printf '%s: ' "$target"
	if ! "$builddir/tests/fuzz/replay_$target" "$srcdir/tests/fuzz/corpus/$target" 2>"$log"; then
		failed=1
		echo "$target failed; what it said last:"
		tail -n 40 "$log"
	fi
done
exit $failed
