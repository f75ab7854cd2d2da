#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Accepting and delivering a message take no more instructions than recorded, give or take a tenth.
# Without valgrind, or with another compiler than the record's, this is skipped and says so.
set -euo pipefail

exec timeout 120 "${srcdir:-.}/bench/instructions.py" --build "${builddir:-.}"
