"""Counts the frames of all connections of a process that uses the `websockets` package.

Frames are counted in the package's own codec, in the form that goes over the wire: compressed where
permessage-deflate is on, automatic pongs and closing handshakes included. `SENT` and `RECEIVED` are
what was counted, as `report` of either says it: frames and bytes by opcode, messages by type.
"""

import collections

from websockets.asyncio.server import ServerConnection
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

NAMES = {opcode: {"CONT": "continuation"}.get(opcode.name, opcode.name.lower()) for opcode in Opcode}


class Counts(Extension):
    """Counts the frames of one direction. As an extension it stands next to the wire."""

    name = "counts"

    def __init__(self):
        self.frames = collections.Counter()
        self.bytes = collections.Counter()
        self.messages = collections.Counter()

    def encode(self, frame):
        self.frames[NAMES[frame.opcode]] += 1
        self.bytes[NAMES[frame.opcode]] += len(frame.data)
        return frame

    def decode(self, frame, *, max_size=None):
        return self.encode(frame)

    def report(self):
        return {"frames": self.frames, "bytes": self.bytes, "messages": self.messages}


SENT, RECEIVED = Counts(), Counts()
# Connections by the code of the first close frame.
CLOSED = collections.Counter()

serialize, parse = Frame.serialize, Frame.parse.__func__


def counting_serialize(self, *, mask, extensions=None):
    return serialize(self, mask=mask, extensions=[*(extensions or []), SENT])


def counting_parse(cls, read_exact, *, mask, max_size=None, extensions=None):
    extensions = [*(extensions or []), RECEIVED]
    return (yield from parse(cls, read_exact, mask=mask, max_size=max_size, extensions=extensions))


Frame.serialize = counting_serialize
Frame.parse = classmethod(counting_parse)


def count_messages(protocol):
    """Counts the messages of a connection that is being made, by the type of their first frames."""

    def wrap(counts, handle):
        kind = None

        def handler(frame):
            nonlocal kind
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                deflate = any(e.name == "permessage-deflate" for e in protocol.extensions)
                kind = NAMES[frame.opcode] + ("+deflate" if deflate else "")
            if frame.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY) and frame.fin:
                counts.messages[kind] += 1
            return handle(frame)

        return handler

    protocol.send_frame = wrap(SENT, protocol.send_frame)
    protocol.recv_frame = wrap(RECEIVED, protocol.recv_frame)


class CountingServer(ServerConnection):
    def __init__(self, protocol, *positional, **named):
        count_messages(protocol)
        super().__init__(protocol, *positional, **named)
