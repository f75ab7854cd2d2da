#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""publish.py TOPIC: each line of standard input becomes a message, on disk before the next is read.

Needs the standard library alone. Gateway is what to take over into a program of your own.
"""
import json, os, socket, sys, time

LATER = ("queue-full", "storage", "too-many-clients", "stopping")

class Gateway:
    def __init__(self, path=os.environ.get("MQTTGW_SOCKET", "/run/mqttgw.sock")):
        self.path, self.stream = path, None

    def ask(self, line):
        """Sends one line and returns its reply; None: there is none, it was not accepted."""
        try:
            if not self.stream:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(self.path)
                    self.stream = connection.makefile("rwb")
            self.stream.write(line)
            self.stream.flush()
            reply = self.stream.readline()
        except OSError:
            reply = b""
        if reply.endswith(b"\n"):
            return json.loads(reply)
        self.stream = None  # the next attempt connects

    def publish(self, topic, payload, **more):
        """Returns the message's number once it is on disk, however long that takes."""
        line = json.dumps({"topic": topic, "payload": payload, "id": 1, **more}) + "\n"
        while True:
            reply = self.ask(line.encode())
            if reply and reply["status"] == "queued":
                return reply["seq"]
            if reply and reply["error"] not in LATER:
                raise ValueError(reply["message"])  # would be refused again
            time.sleep(1)

if __name__ == "__main__":
    gateway = Gateway()
    for reading in sys.stdin:
        gateway.publish(sys.argv[1], reading.rstrip("\n"))
