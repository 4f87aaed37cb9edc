#!/usr/bin/env python3
"""Writes WebSocket conversations to a device, Ethernet frame by Ethernet frame.

Nobody answers: the agent only looks. So there can be on the wire what no kernel would send by
itself. Each case is one TCP connection with the same conversation in another wrapping; `--list`
names them. At the end one line of JSON says what was in it, in the form that `support::tally` reads.

    raw.py DEVICE [CASE ...]
"""

import base64
import collections
import hashlib
import ipaddress
import json
import os
import socket
import struct
import sys

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
CLIENT, SERVER = 0, 1
# Not the address of any device here: what receives it looks at it and drops it.
MACS = bytes.fromhex("020000000a01"), bytes.fromhex("020000000a02")
NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

def handshake(number):
    """Request and response, with a key of their own: with one key and one initial sequence number
    they would be the same connection behind address translation."""
    key = base64.b64encode(b"raw conversation"[:-4] + struct.pack("!I", number))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    request = (
        b"GET /raw HTTP/1.1\r\nHost: raw.example\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    response = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
    )
    return request % key, response % accept


class Counts:
    def __init__(self):
        self.frames = collections.Counter()
        self.bytes = collections.Counter()
        self.messages = collections.Counter()
        self.kind = None

    def frame(self, opcode, fin, payload):
        self.frames[NAMES[opcode]] += 1
        self.bytes[NAMES[opcode]] += len(payload)
        if opcode in (1, 2):
            self.kind = NAMES[opcode]
        if opcode < 8 and fin:
            self.messages[self.kind] += 1


def frame(sender, opcode, payload, fin=True):
    head = bytes([opcode | (0x80 if fin else 0)])
    mask = 0x80 if sender == CLIENT else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack("!BH", mask | 126, len(payload))
    else:
        head += struct.pack("!BQ", mask | 127, len(payload))
    if mask:
        key = b"\x37\xfa\x21\x3d"
        head += key
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return head + payload


Segment = collections.namedtuple("Segment", "sender flags seq ack payload")


class Conversation:
    """The segments of one connection, in order, and what they say."""

    def __init__(self, number, isn=(1000, 5000)):
        self.next = [isn[0], isn[1]]
        self.counts = Counts(), Counts()
        self.segments = []
        self.send(CLIENT, SYN)
        self.send(SERVER, SYN | ACK)
        self.send(CLIENT, ACK)
        for sender, head in zip((CLIENT, SERVER), handshake(number)):
            self.send(sender, PSH | ACK, head)
        self.opening = len(self.segments)
        self.frames(CLIENT, (1, b"hello"))
        # A single byte of payload: the packet is shorter than Ethernet's 60 bytes.
        self.frames(SERVER, (1, b"x"))
        self.frames(CLIENT, (9, b"ping"), (2, bytes(range(200))), cut=(8, 13))
        self.frames(SERVER, (10, b"ping"), (1, b""), (2, bytes(300)), cut=(7, 9, 100))
        self.frames(CLIENT, (1, b"frag", False), (9, b""), (0, b"ment", False), (0, b"", True))
        self.frames(SERVER, (10, b""), (2, bytes(1300)), cut=(1, 3, 5))
        self.frames(CLIENT, (1, b"last"))
        self.frames(SERVER, (1, b"y"))
        self.closing = len(self.segments)
        self.frames(CLIENT, (8, b"\x03\xe8bye"))
        self.frames(SERVER, (8, b"\x03\xe8"))
        self.send(SERVER, FIN | ACK)
        self.send(CLIENT, FIN | ACK)
        self.send(SERVER, ACK)

    def send(self, sender, flags, payload=b""):
        ack = self.next[1 - sender] if flags & ACK else 0
        seq = self.next[sender]
        self.segments.append(Segment(sender, flags, seq % 2**32, ack % 2**32, payload))
        self.next[sender] += len(payload) + (1 if flags & (SYN | FIN) else 0)

    def frames(self, sender, *frames, cut=()):
        """Sends frames back to back, in segments that end at the places in `cut`."""
        stream = b""
        for opcode, payload, *fin in frames:
            fin = fin[0] if fin else True
            self.counts[sender].frame(opcode, fin, payload)
            stream += frame(sender, opcode, payload, fin)
        for begin, end in zip((0, *cut), (*cut, len(stream))):
            self.send(sender, PSH | ACK, stream[begin:end])

    def body(self):
        """The segments between the handshake and the closing."""
        return self.segments[self.opening : self.closing]

    def with_body(self, body):
        return [*self.segments[: self.opening], *body, *self.segments[self.closing :]]


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wrapping:
    """How segments become Ethernet frames."""

    def __init__(
        self, v6=False, vlans=(), ip_options=b"", extensions=(), tcp_options=b"", pad=True
    ):
        self.v6, self.vlans, self.ip_options = v6, vlans, ip_options
        self.extensions, self.tcp_options, self.pad = extensions, tcp_options, pad

    def addresses(self):
        names = ("2001:db8::1", "2001:db8::2") if self.v6 else ("192.0.2.1", "192.0.2.2")
        return [ipaddress.ip_address(name).packed for name in names]

    def tcp(self, segment, ports):
        source, destination = ports[segment.sender], ports[1 - segment.sender]
        offset = (20 + len(self.tcp_options)) // 4 << 4
        fields = (source, destination, segment.seq, segment.ack, offset, segment.flags, 64000)
        head = struct.pack("!HHIIBBH", *fields)
        rest = self.tcp_options + segment.payload
        addresses = self.addresses()
        pseudo = addresses[segment.sender] + addresses[1 - segment.sender]
        pseudo += struct.pack("!II", 20 + len(rest), socket.IPPROTO_TCP)
        return head + struct.pack("!HH", checksum(pseudo + head + b"\0\0\0\0" + rest), 0) + rest

    def ip(self, sender, data, offset=None, more=False):
        """An IP packet; a fragment where `offset` (in bytes of `data`'s whole) is given."""
        source, destination = self.addresses()[sender], self.addresses()[1 - sender]
        if self.v6:
            extensions = list(self.extensions)
            if offset is not None:
                extensions.append((44, struct.pack("!BHI", 0, offset | more, 77)))
            chain, following = b"", socket.IPPROTO_TCP
            for kind, body in reversed(extensions):
                chain, following = bytes([following]) + body + chain, kind
            head = struct.pack("!IHBB", 0x60000000, len(chain) + len(data), following, 64)
            return head + source + destination + chain + data
        flags = 0x4000 if offset is None else (offset >> 3) | (0x2000 if more else 0)
        words = (20 + len(self.ip_options)) // 4
        length = 4 * words + len(data)
        fields = (0x40 | words, 0, length, 77, flags, 64, socket.IPPROTO_TCP)
        head, tail = struct.pack("!BBHHHBB", *fields), source + destination + self.ip_options
        return head + struct.pack("!H", checksum(head + b"\0\0" + tail)) + tail + data

    def ethernet(self, sender, packet):
        tags = b"".join(struct.pack("!HH", kind, vid) for kind, vid in self.vlans)
        kind = 0x86DD if self.v6 else 0x0800
        wire = MACS[1 - sender] + MACS[sender] + tags + struct.pack("!H", kind) + packet
        if self.pad and len(wire) < 60:
            # Not zeros: taken for payload, this would be another frame.
            wire += (b"\x81\x01!" * 20)[: 60 - len(wire)]
        return wire

    def wires(self, segment, ports):
        tcp = self.tcp(segment, ports)
        return [self.ethernet(segment.sender, self.ip(segment.sender, tcp))]


class Fragmented(Wrapping):
    """Frames with 64 bytes of payload or more go in two IP fragments, headers in the first."""

    sent = 0

    def wires(self, segment, ports):
        head = segment.payload.startswith((b"GET ", b"HTTP"))
        if len(segment.payload) < 64 or head:
            return super().wires(segment, ports)
        tcp, sender = self.tcp(segment, ports), segment.sender
        Fragmented.sent += 1
        parts = (tcp[:48], 0, True), (tcp[48:], 48, False)
        return [self.ethernet(sender, self.ip(sender, *part)) for part in parts]


def swapped(conversation):
    """Neighbours change places, direction by direction."""
    body = conversation.body()
    for sender in (CLIENT, SERVER):
        at = [i for i, segment in enumerate(body) if segment.sender == sender]
        for one, other in zip(at[::2], at[1::2]):
            body[one], body[other] = body[other], body[one]
    return conversation.with_body(body)


def repeated(conversation):
    """Everything twice: at once, and all of it again before the closing."""
    body = [segment for segment in conversation.body() for _ in range(2)]
    return conversation.with_body(body + conversation.body())


def overlapping(conversation):
    """Each data segment is followed by one that begins within it and goes on into the next."""
    body = []
    streams = [
        b"".join(segment.payload for segment in conversation.body() if segment.sender == sender)
        for sender in (CLIENT, SERVER)
    ]
    begins = {}
    for segment in conversation.body():
        begin = begins.setdefault(segment.sender, segment.seq)
        at = (segment.seq - begin) % 2**32
        half = at + len(segment.payload) // 2
        end = min(at + len(segment.payload) + 3, len(streams[segment.sender]))
        body.append(segment)
        seq = (begin + half) % 2**32
        body.append(segment._replace(seq=seq, payload=streams[segment.sender][half:end]))
    return conversation.with_body(body)


def kept_alive(conversation):
    """Keep-alive probes of both kinds between all segments."""
    body = []
    for segment in conversation.body():
        body.append(segment)
        behind = segment.seq + len(segment.payload) - 1
        for stale in (b"", b"\0"):
            probe = segment._replace(flags=ACK, seq=behind % 2**32, payload=stale)
            body.append(probe)
    return conversation.with_body(body)


TIMESTAMPS = bytes.fromhex("0101080a0000100000002000")
SACK = bytes.fromhex("0101050a000010000000200001010000")
HOP_BY_HOP = 0, bytes.fromhex("00050200000100")
DESTINATION = 60, bytes.fromhex("01") + b"\x01\x0c" + bytes(12)
ROUTING = 43, bytes.fromhex("02020000000000") + bytes(16)
WRAP = 2**32 - 700, 2**32 - 1000

CASES = {
    "plain": (Wrapping(), {}, None),
    "unpadded": (Wrapping(pad=False), {}, None),
    "vlan": (Wrapping(vlans=[(0x8100, 5)]), {}, None),
    "qinq": (Wrapping(vlans=[(0x88A8, 7), (0x8100, 5)]), {}, None),
    "vlan-ipv6": (Wrapping(v6=True, vlans=[(0x8100, 0x6005)]), {}, None),
    "ip-options": (Wrapping(ip_options=b"\x94\x04\0\0"), {}, None),
    "ip-options-longest": (Wrapping(ip_options=b"\x01" * 40), {}, None),
    "tcp-options": (Wrapping(tcp_options=TIMESTAMPS + SACK), {}, None),
    "tcp-options-longest": (Wrapping(tcp_options=b"\x01" * 40), {}, None),
    "ipv6": (Wrapping(v6=True), {}, None),
    "ipv6-hop-by-hop": (Wrapping(v6=True, extensions=[HOP_BY_HOP]), {}, None),
    "ipv6-destination": (Wrapping(v6=True, extensions=[DESTINATION]), {}, None),
    "ipv6-chain": (
        Wrapping(v6=True, extensions=[HOP_BY_HOP, DESTINATION, ROUTING], tcp_options=TIMESTAMPS),
        {},
        None,
    ),
    "out-of-order": (Wrapping(), {}, swapped),
    "repeated": (Wrapping(), {}, repeated),
    "overlapping": (Wrapping(), {}, overlapping),
    "keep-alive": (Wrapping(), {}, kept_alive),
    "wrap": (Wrapping(), {"isn": WRAP}, None),
    "wrap-out-of-order": (Wrapping(), {"isn": WRAP}, swapped),
    "wrap-overlapping": (Wrapping(v6=True), {"isn": WRAP}, overlapping),
    "isn-zero": (Wrapping(), {"isn": (0, 2**32 - 1)}, None),
    "fragments": (Fragmented(), {}, None),
    "fragments-ipv6": (Fragmented(v6=True), {}, None),
}


def main():
    device, *cases = sys.argv[1:]
    if device == "--list":
        print("\n".join(CASES))
        return
    # One processor: what is sent first arrives first.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    counts = [Counts(), Counts()]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((device, 0))
        for case in cases:
            wrapping, options, rearrange = CASES[case]
            number = list(CASES).index(case)
            conversation = Conversation(number, **options)
            segments = rearrange(conversation) if rearrange else conversation.segments
            ports = 40000 + number, 80
            for segment in segments:
                for wire in wrapping.wires(segment, ports):
                    out.send(wire)
            for sum_, part in zip(counts, conversation.counts):
                sum_.frames += part.frames
                sum_.bytes += part.bytes
                sum_.messages += part.messages
    sent, received = (
        {"frames": count.frames, "bytes": count.bytes, "messages": count.messages}
        for count in counts
    )
    report = {"sent": sent, "received": received, "closed": {1000: len(cases)}}
    print(json.dumps({**report, "fragments": Fragmented.sent}))


if __name__ == "__main__":
    main()
