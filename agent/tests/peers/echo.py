#!/usr/bin/env python3
"""A WebSocket server or client (the `websockets` package) that sends back what it gets.

    echo.py server HOST PORT         prints "ready", and serves until it is killed
    echo.py client HOST PORT FILE    opens each path of FILE, some at a time, then ends

A line of FILE is a path, with " deflate" behind it where permessage-deflate is to be offered. What
the other end does is not expected to be right: how a connection ends is no matter.
"""

import argparse
import asyncio
import contextlib
import logging
import pathlib

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

AT_ONCE = 12
OPTIONS = {"ping_interval": None, "close_timeout": 5, "max_size": None}


async def echo(connection):
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def server(args):
    async with serve(echo, args.host, args.port, **OPTIONS):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def client(args):
    lines = iter(args.file.read_text().splitlines())

    async def some():
        for line in lines:
            path, _, deflate = line.partition(" ")
            url = f"ws://{args.host}:{args.port}{path}"
            extra = {**OPTIONS, "compression": deflate or None, "proxy": None}
            async with connect(url, **extra) as connection:
                await echo(connection)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=pathlib.Path, nargs="?")
    args = parser.parse_args()
    # Broken rules are what this is for.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    asyncio.run({"server": server, "client": client}[args.role](args))


main()
