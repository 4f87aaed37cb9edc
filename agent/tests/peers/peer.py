#!/usr/bin/env python3
"""A WebSocket client or server (the `websockets` package) that counts its own frames.

Every end of every connection sends `--messages` messages and control frames that a seed chooses,
then the text "end". The end named by `--closer` closes once it has sent and received its "end".
A server prints "ready" when it listens. At its end each prints one line of JSON:

    {"sent": {"frames": {opcode: n}, "bytes": {opcode: n}, "messages": {type: n}},
     "received": {...}, "closed": {code of the first close frame: connections}}

Frames are counted in the package's own codec, in the form that goes over the wire: compressed where
permessage-deflate is on, automatic pongs and closing handshakes included.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import string

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

NAMES = {opcode: {"CONT": "continuation"}.get(opcode.name, opcode.name.lower()) for opcode in Opcode}
LIFETIME = 90


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


class CountingClient(ClientConnection):
    def __init__(self, protocol, *positional, **named):
        count_messages(protocol)
        super().__init__(protocol, *positional, **named)


def payload(rng):
    shape = rng.random()
    if shape < 0.6:
        size = rng.randrange(126)
    elif shape < 0.9:
        size = rng.randrange(126, 1200)
    elif shape < 0.99:
        size = rng.randrange(1000, 9000)
    else:
        size = rng.randrange(60_000, 90_000)
    # Half of it can be compressed.
    return "".join(rng.choices(string.ascii_letters, k=size // 2)) + "x" * (size - size // 2)


async def send(connection, rng, messages):
    async def fragments(kind):
        for _ in range(rng.randrange(2, 6)):
            text = payload(rng)
            yield text if kind is str else text.encode()
            if rng.random() < 0.3:
                await connection.ping(rng.randbytes(rng.randrange(4, 126)))

    for _ in range(messages):
        choice = rng.random()
        text = payload(rng)
        if choice < 0.1:
            # Two pings with one payload cannot be told apart: four random bytes at least.
            await connection.ping(rng.randbytes(rng.randrange(4, 126)))
        elif choice < 0.13:
            await connection.pong(rng.randbytes(rng.randrange(126)))
        elif choice < 0.3:
            await connection.send(fragments(rng.choice((str, bytes))))
        elif choice < 0.65:
            await connection.send(text)
        else:
            await connection.send(text.encode())
    await connection.send("end")


async def converse(connection, role, args, seed):
    rng = random.Random(seed)
    sending = asyncio.create_task(send(connection, rng, args.messages))
    # With other codes than 1000 and 1001 the iteration ends in an exception.
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            if message == "end" and args.closer == role:
                await sending
                await connection.close(args.code, "done")
    await sending
    await connection.wait_closed()
    first = connection.protocol.close_rcvd if connection.protocol.close_rcvd_then_sent else None
    first = first or connection.protocol.close_sent
    CLOSED[first.code if first else 1006] += 1


def options(args):
    return {
        "compression": "deflate" if args.deflate else None,
        "ping_interval": None,
        "close_timeout": 20,
        "max_size": None,
    }


async def server(args):
    over = asyncio.Event()
    opened = finished = 0

    async def handler(connection):
        nonlocal opened, finished
        opened += 1
        await converse(connection, "server", args, f"{args.seed} server {opened}")
        finished += 1
        if finished == args.connections:
            over.set()

    extra = {**options(args), "create_connection": CountingServer}
    async with serve(handler, args.host, args.port, **extra):
        print("ready", flush=True)
        await over.wait()


async def client(args):
    host = f"[{args.host}]" if ":" in args.host else args.host
    extra = {**options(args), "create_connection": CountingClient, "proxy": None}

    async def one(n):
        async with connect(f"ws://{host}:{args.port}/python/{n}", **extra) as connection:
            await converse(connection, "client", args, f"{args.seed} client {n}")

    await asyncio.gather(*(one(n) for n in range(args.connections)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=("client", "server"))
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--code", type=int, default=1000)
    parser.add_argument("--closer", choices=("client", "server"), default="client")
    parser.add_argument("--deflate", action="store_true")
    args = parser.parse_args()
    run = {"client": client, "server": server}[args.role]
    asyncio.run(asyncio.wait_for(run(args), LIFETIME))
    report = {"sent": SENT.report(), "received": RECEIVED.report(), "closed": CLOSED}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
