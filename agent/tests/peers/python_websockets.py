#!/usr/bin/env python3
"""A peer of the kernel tests: Python's `websockets`. The module `support::peers` says what the file
named on the command line asks for, and what is printed at the end.

Frames are reported from the package's own codec, in the form that goes over the wire: compressed
where permessage-deflate is on, automatic pongs and closing handshakes included.
"""

import asyncio
import base64
import json
import socket
import struct
import sys

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Opcode
from websockets.server import ServerProtocol

NAMES = {opcode: {"CONT": "continuation"}.get(opcode.name, opcode.name.lower()) for opcode in Opcode}
CONTROL = Opcode.CLOSE, Opcode.PING, Opcode.PONG
OPTIONS = {"ping_interval": None, "close_timeout": 20, "max_size": None}


class Log(Extension):
    """Notes the frames of a connection. As the last of its extensions it stands next to the wire."""

    name = "log"

    def __init__(self):
        self.sent, self.received = [], []

    def note(self, frames, frame):
        entry = {"opcode": NAMES[frame.opcode], "fin": frame.fin, "rsv1": frame.rsv1}
        entry["len"] = len(frame.data)
        if frame.opcode in CONTROL:
            entry["payload"] = bytes(frame.data).hex()
        frames.append(entry)
        return frame

    def encode(self, frame):
        return self.note(self.sent, frame)

    def decode(self, frame, *, max_size=None):
        return self.note(self.received, frame)


class Logged:
    """A protocol whose extensions, whenever they are agreed, end with the log."""

    @property
    def extensions(self):
        return [*self.agreed, self.log]

    @extensions.setter
    def extensions(self, agreed):
        self.agreed = agreed


class LoggedClientProtocol(Logged, ClientProtocol):
    pass


class LoggedServerProtocol(Logged, ServerProtocol):
    pass


def logged(connection_class, protocol_class):
    class Connection(connection_class):
        def __init__(self, protocol, *positional, **named):
            # The package makes the protocol by itself; until now it has done nothing.
            agreed = vars(protocol).pop("extensions")
            protocol.__class__, protocol.log = protocol_class, Log()
            protocol.extensions = agreed
            super().__init__(protocol, *positional, **named)

    return Connection


class Conversation:
    def __init__(self, connection, steps):
        self.connection, self.steps = connection, steps
        self.messages = []
        self.arrived = asyncio.Condition()

    async def receive(self):
        try:
            while True:
                message = await self.connection.recv()
                size = len(message.encode() if isinstance(message, str) else message)
                kind = "text" if isinstance(message, str) else "binary"
                async with self.arrived:
                    self.messages.append({"type": kind, "len": size})
                    self.arrived.notify_all()
        except ConnectionClosed:
            pass

    async def control(self, step):
        payload = base64.b64decode(step["payload"])
        await (self.connection.ping if step["opcode"] == "ping" else self.connection.pong)(payload)

    async def fragments(self, first, steps):
        """The fragments of a message up to its last, with control frames between them."""
        yield base64.b64decode(first["payload"])
        for step in steps:
            if step["opcode"] in ("ping", "pong"):
                await self.control(step)
                continue
            yield base64.b64decode(step["payload"])
            if step["fin"]:
                return

    async def send(self):
        steps = iter(self.steps)
        for step in steps:
            if step["do"] == "await":
                async with self.arrived:
                    await self.arrived.wait_for(lambda: len(self.messages) >= step["messages"])
            elif step["do"] == "close":
                await self.connection.close(step.get("code"), step["reason"])
            elif step["do"] in ("drop", "reset"):
                transport = self.connection.transport
                if step["do"] == "reset":
                    linger = struct.pack("ii", 1, 0)
                    sock = transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()
            elif step["opcode"] in ("ping", "pong"):
                await self.control(step)
            else:
                payload = base64.b64decode(step["payload"])
                message = payload if step["fin"] else self.fragments(step, steps)
                await self.connection.send(message, text=step["opcode"] == "text")

    async def run(self):
        await asyncio.gather(self.send(), self.receive())
        await self.connection.wait_closed()
        log = self.connection.protocol.log
        return {
            "sent": log.sent,
            "received": log.received,
            "messages": self.messages,
            "close": {
                "code": self.connection.close_code,
                "reason": self.connection.close_reason or "",
            },
        }


async def server(job):
    reports, over = {}, asyncio.Event()

    async def handler(connection):
        path = connection.request.path
        reports[path] = await Conversation(connection, job["conversations"][path]["steps"]).run()
        if len(reports) == len(job["conversations"]):
            over.set()

    make = logged(ServerConnection, LoggedServerProtocol)
    extensions = [ServerPerMessageDeflateFactory()]
    options = {**OPTIONS, "compression": None, "extensions": extensions, "create_connection": make}
    async with serve(handler, job["host"], job["port"], **options):
        print("ready", flush=True)
        await over.wait()
    return reports


async def client(job):
    make = logged(ClientConnection, LoggedClientProtocol)

    async def one(path, conversation):
        deflate = conversation["deflate"]
        extensions = None if deflate is None else [ClientPerMessageDeflateFactory(**deflate)]
        options = {**OPTIONS, "compression": None, "extensions": extensions, "proxy": None}
        url = f"ws://{conversation['to']}{path}"
        async with connect(url, create_connection=make, **options) as connection:
            report = await Conversation(connection, conversation["steps"]).run()
            agreed = connection.response.headers.get("Sec-WebSocket-Extensions", "")
            return path, {**report, "extensions": agreed}

    print("ready", flush=True)
    conversations = job["conversations"].items()
    return dict(await asyncio.gather(*(one(*conversation) for conversation in conversations)))


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    role = {"client": client, "server": server}[job["role"]]
    reports = asyncio.run(asyncio.wait_for(role(job), job["seconds"]))
    print(json.dumps(reports), flush=True)


if __name__ == "__main__":
    main()
