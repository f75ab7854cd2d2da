# SPDX-License-Identifier: MIT
"""MQTT packets as bytes, seen from a broker: 3.1.1 and 5.

Only what a publishing client sends and a broker answers; a packet that
breaks the standard raises ProtocolError.
"""

import struct
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ = range(8, 13)
PINGRESP, DISCONNECT, AUTH = range(13, 16)

NAMES = [
    "RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC",
    "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK",
    "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
]

V311 = 4
V5 = 5


class ProtocolError(AssertionError):
    """The peer sent what MQTT does not allow."""


#: Identifier -> (name, type), MQTT 5 section 2.2.2.2.
PROPERTIES: Dict[int, Tuple[str, str]] = {
    0x01: ("payload_format", "byte"),
    0x02: ("message_expiry", "four"),
    0x03: ("content_type", "text"),
    0x08: ("response_topic", "text"),
    0x09: ("correlation_data", "binary"),
    0x0B: ("subscription_id", "varint"),
    0x11: ("session_expiry", "four"),
    0x12: ("assigned_client_id", "text"),
    0x13: ("server_keep_alive", "two"),
    0x15: ("auth_method", "text"),
    0x16: ("auth_data", "binary"),
    0x17: ("request_problem_info", "byte"),
    0x18: ("will_delay", "four"),
    0x19: ("request_response_info", "byte"),
    0x1A: ("response_info", "text"),
    0x1C: ("server_reference", "text"),
    0x1F: ("reason", "text"),
    0x21: ("receive_maximum", "two"),
    0x22: ("topic_alias_maximum", "two"),
    0x23: ("topic_alias", "two"),
    0x24: ("maximum_qos", "byte"),
    0x25: ("retain_available", "byte"),
    0x26: ("user_property", "pair"),
    0x27: ("maximum_packet_size", "four"),
    0x28: ("wildcard_available", "byte"),
    0x29: ("subscription_id_available", "byte"),
    0x2A: ("shared_available", "byte"),
}
PROPERTY_IDS = {name: (key, kind) for key, (name, kind) in PROPERTIES.items()}

Properties = Dict[str, Any]


@dataclass
class Packet:
    """One packet of any kind; fields that do not apply stay None."""

    kind: int
    flags: int = 0
    mid: Optional[int] = None
    reason: int = 0
    properties: Properties = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self) -> str:
        return NAMES[self.kind]


@dataclass
class Connect(Packet):
    version: int = V311
    clean: bool = False
    keepalive: int = 0
    client_id: str = ""
    username: Optional[str] = None
    password: Optional[bytes] = None
    will_topic: Optional[str] = None
    will_payload: Optional[bytes] = None
    will_qos: int = 0
    will_retain: bool = False
    will_properties: Properties = field(default_factory=dict)

    @property
    def lasting(self) -> bool:
        """Whether the broker keeps the session beyond the connection."""
        if self.version == V5:
            return self.properties.get("session_expiry", 0) > 0
        return not self.clean


@dataclass
class Publish(Packet):
    topic: str = ""
    payload: bytes = b""
    qos: int = 0
    dup: bool = False
    retain: bool = False


class _Reader:
    """Takes values off the front of a packet's body."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ProtocolError("packet ends inside a field")
        self.at += count
        return self.data[self.at - count:self.at]

    def left(self) -> int:
        return len(self.data) - self.at

    def byte(self) -> int:
        return self.take(1)[0]

    def two(self) -> int:
        return struct.unpack(">H", self.take(2))[0]

    def four(self) -> int:
        return struct.unpack(">I", self.take(4))[0]

    def binary(self) -> bytes:
        return self.take(self.two())

    def text(self) -> str:
        return self.binary().decode("utf-8")

    def pair(self) -> Tuple[str, str]:
        return self.text(), self.text()

    def varint(self) -> int:
        value = 0
        for shift in range(0, 28, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise ProtocolError("variable byte integer over four bytes")

    def properties(self) -> Properties:
        """A property block; user properties become a list of pairs."""
        length = self.varint()
        end = self.at + length
        found: Properties = {}
        while self.at < end:
            key = self.varint()
            if key not in PROPERTIES:
                raise ProtocolError(f"unknown property 0x{key:02x}")
            name, kind = PROPERTIES[key]
            value = getattr(self, kind)()
            if kind == "pair":
                found.setdefault(name, []).append(value)
            elif name in found:
                raise ProtocolError(f"property {name} twice")
            else:
                found[name] = value
        if self.at != end:
            raise ProtocolError("a property reaches over its block")
        return found


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack(">H", len(data)) + data


def encode_properties(properties: Properties) -> bytes:
    out = b""
    for name, value in properties.items():
        key, kind = PROPERTY_IDS[name]
        values: List[Any] = value if kind == "pair" else [value]
        for item in values:
            out += varint(key)
            if kind == "byte":
                out += struct.pack(">B", item)
            elif kind == "two":
                out += struct.pack(">H", item)
            elif kind == "four":
                out += struct.pack(">I", item)
            elif kind == "varint":
                out += varint(item)
            elif kind == "text":
                out += text(item)
            elif kind == "pair":
                out += text(item[0]) + text(item[1])
            else:
                out += struct.pack(">H", len(item)) + item
    return varint(len(out)) + out


def frame(kind: int, flags: int, body: bytes) -> bytes:
    """A whole packet: fixed header and body."""
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


# --- what a broker writes -------------------------------------------------


def connack(
    version: int,
    code: int = 0,
    session_present: bool = False,
    properties: Optional[Properties] = None,
) -> bytes:
    body = bytes([int(session_present), code])
    if version == V5:
        body += encode_properties(properties or {})
    return frame(CONNACK, 0, body)


def acknowledgement(
    version: int, kind: int, mid: int, reason: int = 0
) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    body = struct.pack(">H", mid)
    if version == V5 and reason:
        body += bytes([reason])
    return frame(kind, 2 if kind == PUBREL else 0, body)


def disconnect(version: int, reason: int = 0) -> bytes:
    return frame(DISCONNECT, 0, bytes([reason]) if version == V5 else b"")


# --- what a broker reads ----------------------------------------------------


def split(data: bytes) -> Tuple[Optional[Tuple[int, int, bytes]], bytes]:
    """Take one packet off the front: ((kind, flags, body) or None, rest)."""
    length = 0
    for index in range(4):
        if len(data) < 2 + index:
            return None, data
        byte = data[1 + index]
        length |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            break
    else:
        raise ProtocolError("remaining length over four bytes")
    start = 2 + index
    if len(data) < start + length:
        return None, data
    packet = (data[0] >> 4, data[0] & 15, data[start:start + length])
    return packet, data[start + length:]


def parse_connect(flags: int, body: bytes) -> Connect:
    if flags:
        raise ProtocolError("CONNECT with flags in its fixed header")
    reader = _Reader(body)
    if reader.text() != "MQTT":
        raise ProtocolError("CONNECT without the protocol's name")
    packet = Connect(CONNECT, body=body, version=reader.byte())
    if packet.version not in (V311, V5):
        raise ProtocolError(f"protocol level {packet.version}")
    bits = reader.byte()
    if bits & 1:
        raise ProtocolError("reserved CONNECT flag is set")
    packet.clean = bool(bits & 0x02)
    packet.keepalive = reader.two()
    if packet.version == V5:
        packet.properties = reader.properties()
    packet.client_id = reader.text()
    if bits & 0x04:
        if packet.version == V5:
            packet.will_properties = reader.properties()
        packet.will_topic = reader.text()
        packet.will_payload = reader.binary()
        packet.will_qos = bits >> 3 & 3
        packet.will_retain = bool(bits & 0x20)
    if bits & 0x80:
        packet.username = reader.text()
    if bits & 0x40:
        packet.password = reader.binary()
    if reader.left():
        raise ProtocolError("bytes behind the CONNECT packet's payload")
    return packet


def parse_publish(version: int, flags: int, body: bytes) -> Publish:
    reader = _Reader(body)
    packet = Publish(
        PUBLISH,
        flags,
        body=body,
        qos=flags >> 1 & 3,
        dup=bool(flags & 8),
        retain=bool(flags & 1),
    )
    if packet.qos == 3:
        raise ProtocolError("PUBLISH with QoS 3")
    if packet.qos == 0 and packet.dup:
        raise ProtocolError("PUBLISH with QoS 0 and DUP")
    packet.topic = reader.text()
    if packet.qos:
        packet.mid = reader.two()
        if packet.mid == 0:
            raise ProtocolError("PUBLISH with packet identifier 0")
    if version == V5:
        packet.properties = reader.properties()
    packet.payload = reader.take(reader.left())
    return packet


def parse(version: int, kind: int, flags: int, body: bytes) -> Packet:
    """Any packet but CONNECT."""
    if kind == PUBLISH:
        return parse_publish(version, flags, body)
    packet = Packet(kind, flags, body=body)
    reader = _Reader(body)
    if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        if flags != (2 if kind == PUBREL else 0):
            raise ProtocolError(f"{packet.name} with flags {flags:#x}")
        packet.mid = reader.two()
        if version == V5 and reader.left():
            packet.reason = reader.byte()
            if reader.left():
                packet.properties = reader.properties()
    elif kind == DISCONNECT:
        if version == V5 and reader.left():
            packet.reason = reader.byte()
            if reader.left():
                packet.properties = reader.properties()
    elif kind != PINGREQ:
        raise ProtocolError(f"{packet.name} from a publisher")
    if reader.left():
        raise ProtocolError(f"bytes behind a {packet.name}")
    return packet
