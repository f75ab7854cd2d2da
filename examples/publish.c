/* SPDX-License-Identifier: MIT */
/*
 * publish TOPIC: each line of standard input, a JSON value such as 21.5, becomes a message; ends
 * once all of them are on disk. Needs libc alone:
 *
 *     cc -o publish publish.c
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static FILE *gateway; /* NULL: not connected */

/* Sends one line and reads its reply. NULL: there is none, so the line was not accepted. */
static char *ask(const char *topic, const char *value, char *reply, int size)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "/run/mqttgw.sock" };
	if (getenv("MQTTGW_SOCKET"))
		strncpy(to.sun_path, getenv("MQTTGW_SOCKET"), sizeof(to.sun_path) - 1);
	if (!gateway) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 ||
			!(gateway = fdopen(fd, "r")))
			return close(fd), NULL;
	}
	dprintf(fileno(gateway), "{\"topic\":\"%s\",\"payload\":%s,\"id\":1}\n", topic, value);
	if (!fgets(reply, size, gateway))
		return fclose(gateway), gateway = NULL, NULL; /* the next attempt connects */
	return reply;
}

int main(int argc, char *argv[])
{
	char *value = NULL, reply[1024] = "", error[32] = "";
	size_t size = 0;
	signal(SIGPIPE, SIG_IGN); /* a gateway that has gone shows by its missing reply */
	while (argc == 2 && getline(&value, &size, stdin) > 0) {
		value[strcspn(value, "\n")] = '\0';
		while (!ask(argv[1], value, reply, sizeof(reply)) ||
			!strstr(reply, ",\"status\":\"queued\"")) {
			sscanf(reply, "{\"id\":%*[^,],\"status\":\"error\",\"error\":\"%31[^\"]",
				error);
			if (!strstr("queue-full storage too-many-clients stopping", error))
				return fputs(reply, stderr), 1; /* would be refused again */
			sleep(1);
		}
	}
	return argc == 2 ? 0 : 2;
}
