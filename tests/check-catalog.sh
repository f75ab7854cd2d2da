#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Holds src/event.c and systemd/mqttgw.catalog together: each message id has one entry, under the
# event's name, and no other has; entries use only fields that events have; and journalctl, where
# there is one, takes the file and finds all of them in it.
set -euo pipefail

root=${srcdir:-$(dirname "$0")/..}
table=$root/src/event.c
catalog=$root/systemd/mqttgw.catalog
fault=0

complain() {
	echo "$*" >&2
	fault=1
}

# "id name" a line, of each.
of_table=$(tr -d '\n\t' <"$table" |
	grep -oE '\[EVENT_[A-Z_]+\] = \{ *"[0-9a-f]*", *"[a-z-]*"' |
	sed -E 's/.*"([0-9a-f]*)", *"([a-z-]*)"/\1 \2/' | sort)
of_catalog=$(awk '/^# [a-z-]+$/ { name = $2 } /^-- / { print $2, name; name = "" }' "$catalog" | sort)

if [ "$(grep -c . <<<"$of_table")" -ne "$(grep -c '\[EVENT_' "$table")" ]; then
	complain "$table: some kinds of events are not understood by this test"
fi
if ! differ=$(diff <(echo "$of_table") <(echo "$of_catalog")); then
	complain "events (<) and catalog (>) differ:"$'\n'"$differ"
fi
for part in 1 2; do
	twice=$(cut -d' ' -f$part <<<"$of_table" | sort | uniq -d)
	[ -z "$twice" ] || complain "$table: used twice: $twice"
done

# Each entry: the headers, an empty line, a text.
awk '
	/^-- / { if (id && !(subject && by && documentation && text)) print id; id = $2
		 subject = by = documentation = text = body = 0; next }
	/^#/ { next }
	!body && /^Subject: ./ { subject = 1 }
	!body && /^Defined-By: mqtt-gatewayd$/ { by = 1 }
	!body && /^Documentation: man:mqtt-gatewayd\(8\)$/ { documentation = 1 }
	/^$/ { body = 1 }
	body && /[a-z]/ { text = 1 }
	END { if (id && !(subject && by && documentation && text)) print id }
' "$catalog" | { ! grep . >&2; } || complain "$catalog: these entries lack a part"

while read -r field; do
	grep -q "\"$field\"" "$table" || complain "$catalog: @$field@ is no field of an event"
done < <(grep -oE '@[A-Z_]+@' "$catalog" | tr -d @ | sort -u)

if command -v journalctl >/dev/null; then
	tree=$(mktemp -d)
	trap 'rm -rf "$tree"' EXIT
	mkdir -p "$tree/usr/lib/systemd/catalog" "$tree/var/lib/systemd/catalog"
	cp "$catalog" "$tree/usr/lib/systemd/catalog/"
	journalctl --root="$tree" --update-catalog || complain "journalctl does not take the catalog"
	listed=$(journalctl --root="$tree" --list-catalog | cut -d' ' -f1 | sort)
	if [ "$listed" != "$(cut -d' ' -f1 <<<"$of_table")" ]; then
		complain "journalctl lists other entries: $listed"
	fi
else
	echo "no journalctl: the catalog was not compiled"
fi

[ "$fault" -eq 0 ] || exit 1
echo "$(grep -c . <<<"$of_table") events, each with its entry"
