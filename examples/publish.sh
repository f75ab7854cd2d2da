#!/bin/sh
# SPDX-License-Identifier: MIT
# Each line of standard input becomes a message; ends once all of them are on disk.
#
#   publish.sh TOPIC <readings          needs socat, everything else is in coreutils
#
# One connection a message: slow, and all that a script needs. base64 spares us JSON's quoting.
set -eu
topic=${1:?usage: publish.sh TOPIC}
socket=${MQTTGW_SOCKET:-/run/mqttgw.sock}

while IFS= read -r reading; do
	line=$(printf '{"topic":"%s","payload_base64":"%s","id":1}' \
		"$topic" "$(printf %s "$reading" | base64 -w 0)")
	while :; do
		# socat ends when the gateway has answered; -t bounds how long it waits for that.
		reply=$(echo "$line" | socat -t 60 - "UNIX-CONNECT:$socket" 2>/dev/null) || true
		case $reply in
		*'"id":1,"status":"queued"'*) break ;;
		*'"error":"queue-full"'* | *'"error":"storage"'*) ;;   # later
		*'"error":"too-many-clients"'* | *'"error":"stopping"'*) ;;
		'') ;;                                                 # nobody there, or gone: again
		*) echo "refused: $reply" >&2 && exit 1 ;;             # would be refused again
		esac
		sleep 1
	done
done
