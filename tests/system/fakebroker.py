# SPDX-License-Identifier: MIT
"""Run inside the machine: an MQTT 5 broker on port 1885 that does what a word in a file says.

    fakebroker.py FILE

accept      takes everything
refuse      answers every message with "not authorized"
silent      lets the gateway in and answers nothing
drop        lets it in, and out
taken-over  the same, and says that another client has its id
web         is none
"""

import socket
import sys
import threading
import time


def read_exactly(conn, n):
    data = b""
    while len(data) < n:
        piece = conn.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_packet(conn):
    """The first byte and the body of a packet."""
    first = read_exactly(conn, 1)[0]
    length = shift = 0
    while True:
        byte = read_exactly(conn, 1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first, read_exactly(conn, length)


def serve(conn, mode):
    read_packet(conn)
    if mode() == "web":
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 60\r\n\r\n" + b"x" * 60)
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(4096):
            pass
        return
    conn.sendall(b"\x20\x03\x00\x00\x00")
    if mode() in ("drop", "taken-over"):
        if mode() == "taken-over":
            conn.sendall(b"\xe0\x01\x8e")
        time.sleep(0.01)
        return
    while True:
        first, body = read_packet(conn)
        if first >> 4 == 3 and first & 0x06:
            after_topic = 2 + int.from_bytes(body[:2], "big")
            mid = body[after_topic:after_topic + 2]
            if mode() == "accept":
                conn.sendall(b"\x40\x03" + mid + b"\x00")
            elif mode() == "refuse":
                conn.sendall(b"\x40\x03" + mid + b"\x87")
        elif first >> 4 == 12:
            conn.sendall(b"\xd0\x00")
        elif first >> 4 == 14:
            return


def run(conn, mode):
    with conn:
        try:
            serve(conn, mode)
        except (EOFError, OSError):
            pass


def main():
    def mode():
        with open(sys.argv[1], encoding="ascii") as f:
            return f.read().strip()

    listener = socket.create_server(("127.0.0.1", 1885))
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=run, args=(conn, mode), daemon=True).start()


main()
