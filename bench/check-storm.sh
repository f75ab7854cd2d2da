#!/bin/sh
# SPDX-License-Identifier: MIT
# A small reconnect storm for `make check`: everybody comes back, and jitter is worth something.
: "${builddir:=.}"

"$builddir/bench/storm" --check
