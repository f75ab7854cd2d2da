#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Who may know whom under src/, and who may use which library: reads the #include lines and fails on
# an arrow that is not in the tables below. New rooms and arrows are added here, on purpose.
#
#   tests/check-includes.sh [DIRECTORY]     default: src/ of this tree
set -euo pipefail

# A room is the files of one name, NAME.c and NAME.h; NAME_x.c and NAME_x.h are parts of room NAME
# unless they have a line of their own. A folder is one room, whatever its files are called. Each
# line: a room, and the rooms it may include.
rooms='
ctl:          queue_check config base64 utf8 log util
report:       config backoff buffer url log timer util
main:         gateway config footprint log util
gateway:      control httpd metrics alerts event flap figures footprint ingest listener store uplink mailbox selection config log message timer utf8 util
control:      listener queue_reader metrics figures supervisor brokers failure alerts selection topic base64 utf8 buffer message log timer util
httpd:        address buffer log timer util
metrics:      figures supervisor brokers failure buffer utf8 util
uplink:       event flap link drain supervisor stall mqtt discovery netwatch mailbox clock queue_reader failure config log message timer util
link:         event mqtt resolver failure config log message util
discovery:    resolver config log timer util
netwatch:     log util
store:        event flap alerts queue mailbox selection acceptance figures clock config log message timer util
ingest:       event flap access listener frame_json figures buffer log message timer util
listener:     log util
drain:        mailbox queue_reader window trial failure log message util
mqtt:         mqtt_guard failure log message timer util
mqtt_guard:   util
queue_check:  queue queue_sql log util
queue:        event queue_sql queue_vfs selection clock log message util
queue_reader: queue_sql queue_vfs log message util
queue_sql:    queue_vfs log message util
queue_vfs:    flap util
resolver:     log util
mailbox:      figures alerts clock log util
figures:      supervisor brokers failure util
event:        alerts log util
alerts:       utf8 util
flap:         util
footprint:    util
supervisor:   brokers failure backoff util
config:       access address topic backoff utf8 url log util
brokers:      failure util
trial:        util
selection:    topic util
access:       topic util
acceptance:   util
frame_json:   json_text topic base64 message buffer util
json_text:    utf8 util
window:       util
stall:        util
failure:      util
backoff:      util
base64:       util
timer:        util
topic:        utf8 util
url:          util
address:      util
utf8:         util
log:          util
buffer:       util
message:      util
clock:        util
util:
'

# A library or a part of the system that is wrapped, and the rooms that may include it.
libraries='
sqlite3.h:            queue queue_reader queue_sql queue_vfs
mosquitto.h:          mqtt
mqtt_protocol.h:      mqtt
openssl/err.h:        mqtt
openssl/ssl.h:        mqtt
openssl/x509v3.h:     mqtt
libconfig.h:          config
jansson.h:            frame_json control ctl report
netdb.h:              resolver
resolv.h:             resolver
arpa/nameser.h:       resolver
libmnl/libmnl.h:      netwatch
microhttpd.h:         httpd
curl/curl.h:          report
linux/rtnetlink.h:    netwatch
sys/inotify.h:        discovery
systemd/sd-journal.h: log
systemd/sd-daemon.h:  gateway listener report
systemd/sd-event.h:   timer gateway store ingest control httpd report uplink link mqtt resolver discovery netwatch
'

# Files that are made by the build, and the rooms that may include them.
made='
sql-001.inc:    queue_sql
sql-002.inc:    queue_sql
config-build.h: ctl gateway httpd main netwatch report
'

# entry TABLE NAME: the right side of NAME's line, between blanks; status 1 if there is none.
entry() {
	local name rest
	while IFS=: read -r name rest; do
		if [ "$name" = "$2" ]; then
			read -ra words <<<"$rest"
			echo " ${words[*]:-} "
			return 0
		fi
	done <<<"$1"
	return 1
}

# room_of STEM: the room that STEM.c or STEM.h belongs to, a path from the tree's top; status 1 if
# there is none.
room_of() {
	local name=${1%%/*}
	while ! entry "$rooms" "$name" >/dev/null; do
		[ "$name" != "${name%_*}" ] || return 1
		name=${name%_*}
	done
	echo "$name"
}

# faults_of TREE FILE: one line for each include that is not allowed. FILE is a path from TREE.
faults_of() {
	local tree=$1 file=$2 folder room allowed line target to may
	folder=$(dirname "$file")
	if ! room=$(room_of "${file%.[ch]}"); then
		echo "$file: belongs to no listed room"
		return
	fi
	allowed=$(entry "$rooms" "$room")
	while read -r line; do
		target=${line#*[<\"]}
		target=${target%%[>\"]*}
		case $line in
		*'"'*)
			if may=$(entry "$made" "$target"); then
				[[ $may == *" $room "* ]] || echo "$file: $room may not include \"$target\""
			elif [ "$folder" != . ] && [ -e "$tree/$folder/$target" ]; then
				: # the compiler looks beside the file first
			elif ! to=$(room_of "${target%.h}"); then
				echo "$file: includes \"$target\", which belongs to no listed room"
			elif [ "$to" != "$room" ] && [[ $allowed != *" $to "* ]]; then
				echo "$file: $room may not know $to (\"$target\")"
			fi
			;;
		*)
			if may=$(entry "$libraries" "$target") && [[ $may != *" $room "* ]]; then
				echo "$file: $room may not use <$target>, which is for:$may"
			fi
			;;
		esac
	done < <(grep -hE '^[[:space:]]*#[[:space:]]*include' "$tree/$file")
}

# Prints the faults and the count; status 1 if there is a fault.
check_tree() {
	local file faults passed=0 failed=0
	for file in "$1"/*.[ch] "$1"/*/*.[ch]; do
		faults=$(faults_of "$1" "${file#"$1"/}")
		if [ -z "$faults" ]; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			echo "$faults"
		fi
	done
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
}

# --- does it find what it is to find? ------------------------------------------------------------

# self_test NAME FILE LINE PATTERN: a tree with that line in that file must fail and say PATTERN;
# with an empty PATTERN it must pass.
self_test() {
	local tree=$scratch/$1 out status=0
	mkdir -p "$tree/ctl"
	printf '#include "uplink.h"\n#include <stdio.h>\n' >"$tree/gateway.c"
	printf '#include "queue_sql.h"\n' >"$tree/queue.c"
	printf '#include <sqlite3.h>\n' >"$tree/queue_sql.h"
	printf '#include "util.h"\n' >"$tree/log.h"
	printf '#include "ctl.h"\n#include "queue_check.h"\n' >"$tree/ctl/queue.c"
	printf '#include <stdint.h>\n' >"$tree/ctl/ctl.h"
	printf '%s\n' "$3" >>"$tree/$2"
	out=$(check_tree "$tree") || status=$?
	if [ -z "$4" ]; then
		[ "$status" -eq 0 ] && return
	elif [ "$status" -ne 0 ] && [[ $out == *"$4"* ]]; then
		return
	fi
	printf 'self-test "%s" failed: status %d\n%s\n' "$1" "$status" "$out" >&2
	exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

self_test fine config_keys.c '#include <libconfig.h>' ''
self_test back-arrow log.h '#include "gateway.h"' 'log may not know gateway'
self_test indented-back-arrow queue.c '  #  include "uplink.h"' 'queue may not know uplink'
self_test sideways drain.c '#include "supervisor.h"' 'drain may not know supervisor'
self_test unlisted-room rumour.c '#include "util.h"' 'belongs to no listed room'
self_test unlisted-target gateway.c '#include "rumour.h"' 'belongs to no listed room'
self_test second-user gateway.c '#include <sqlite3.h>' 'may not use <sqlite3.h>'
self_test hidden-second-user gateway.c '#include "queue_sql.h"' 'gateway may not know queue_sql'
self_test folder-upwards ctl/queue.c '#include "queue.h"' 'ctl may not know queue'
self_test folder-from-outside gateway.c '#include "ctl/ctl.h"' 'gateway may not know ctl'
self_test folder-by-its-name gateway.c '#include "ctl.h"' 'gateway may not know ctl'
self_test folder-and-library ctl/queue.c '#include <sqlite3.h>' 'ctl may not use <sqlite3.h>'
self_test folder-unlisted ctl/queue.c '#include "rumour.h"' 'belongs to no listed room'
self_test library-in-quotes ingest.c '#include "jansson.h"' 'belongs to no listed room'

# The table itself: arrows that can be sorted have no way back.
while IFS=: read -r from to; do
	for target in $to; do
		echo "$from $target"
	done
done <<<"$rooms" | tsort >/dev/null

# The table that people read has a line for each room.
architecture=${srcdir:-$(dirname "$0")/..}/doc/architecture.md
while IFS=: read -r room _; do
	if [ -n "$room" ] && ! grep -qE "^\\|[^|]*\`$room\`" "$architecture"; then
		echo "$architecture: no line for $room" >&2
		exit 1
	fi
done <<<"$rooms"

check_tree "${1:-${srcdir:-$(dirname "$0")/..}/src}"
