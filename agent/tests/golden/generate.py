#!/usr/bin/env python3
"""Takes the captures of this folder from real peers (Python's `websockets`), with tcpdump, on the
loopback of a network namespace that goes with this process. Root only:

    target/peers/bin/python3 agent/tests/golden/generate.py [CASE ...]

Without a case it takes all of them. What `wstap read` says of the new captures then needs a careful
look: `WSTAP_BLESS=1 cargo test --test golden` writes it, and `git diff` shows it.
"""

import asyncio
import contextlib
import http
import os
import pathlib
import signal
import socket
import struct
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

FOLDER = pathlib.Path(__file__).resolve().parent
INSIDE = "WSTAP_GOLDEN_INSIDE"
V4, V6, PORT = ("10.88.0.1", "10.88.0.2"), ("fd88::1", "fd88::2"), 8080


async def echo(connection):
    # How it ends is the client's business.
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            if message == "bye":
                await connection.close(1001, "server says bye")
            else:
                await connection.send(message)


def server(handler=echo, addresses=V4, **options):
    options = {"compression": None, "ping_interval": None, **options}
    return serve(handler, addresses[1], PORT, **options)


def client(path="/", addresses=V4, **options):
    host = addresses[1] if addresses is V4 else f"[{addresses[1]}]"
    options = {"compression": None, "ping_interval": None, "proxy": None, **options}
    options = {"local_addr": (addresses[0], 0), **options}
    return connect(f"ws://{host}:{PORT}{path}", **options)


@contextlib.asynccontextmanager
async def capture(case):
    """Writes what passes while it lasts to the capture of `case`."""
    path = FOLDER / f"{case}.pcap"
    tcpdump = await asyncio.create_subprocess_exec(
        *("tcpdump", "-i", "lo", "-B", "65536", "-U", "-Z", "root"),
        *("-w", path, f"tcp port {PORT}"),
        stderr=asyncio.subprocess.PIPE,
    )
    while b"listening on" not in (line := await tcpdump.stderr.readline()):
        assert line, "tcpdump did not start"
    try:
        yield
        # tcpdump forgets what it has not read yet when it is told to stop.
        size = None
        while size != (size := path.stat().st_size):
            await asyncio.sleep(1)
    finally:
        tcpdump.send_signal(signal.SIGINT)
        _, said = await tcpdump.communicate()
        assert b"\n0 packets dropped by kernel" in said, said.decode()


async def talk(connection, *more):
    """Text, binary and an empty message, and a ping."""
    for message in ("hello", bytes(range(256)), "", "g\u00fcnstig \u2713" * 40, *more):
        await connection.send(message)
        assert await connection.recv() == message
    await (await connection.ping(b"are you there?"))


async def messages(case):
    async def handler(connection):
        await (await connection.ping(b"from the server"))
        await echo(connection)

    async with capture(case), server(handler):
        async with client("/talk?token=1") as connection:
            # Over the limits of 16 bits, for the length and for the packet.
            await talk(connection, b"\0" * 70_000)
            await connection.close(1000, "bye")


async def server_closes(case):
    async with capture(case), server(), client("/talk") as connection:
        await connection.send("hello")
        await connection.recv()
        await connection.send("bye")
        await connection.wait_closed()


async def fragments(case):
    async with capture(case), server(), client("/fragments") as connection:

        async def parts(*parts):
            for n, part in enumerate(parts):
                yield part
                await connection.ping(b"after part %d" % n)

        await connection.send(parts("one, ", "two, ", "three"))
        await connection.recv()
        await connection.send(parts(b"\0" * 1000, b"\1" * 200))
        await connection.recv()


async def compressed(case):
    options = {"compression": "deflate"}
    async with capture(case), server(**options), client("/deflate", **options) as connection:
        for message in ("hello", "hello " * 100, b"\0" * 10_000, ""):
            await connection.send(message)
            assert await connection.recv() == message


async def rst(case):
    async with capture(case), server():
        connection = await client("/rst")
        await connection.send("last words")
        await connection.recv()
        linger = struct.pack("ii", 1, 0)
        link = connection.transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.transport.abort()
        await connection.wait_closed()


async def fin(case):
    """The server's process ends without a close frame."""

    async def handler(connection):
        await connection.recv()
        connection.transport.close()

    async with capture(case), server(handler):
        connection = await client("/fin")
        await connection.send("anyone?")
        await connection.wait_closed()


async def refused(case):
    def refuse(connection, request):
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")

    async with capture(case), server(process_request=refuse):
        try:
            async with client("/private", origin="http://elsewhere.example"):
                raise AssertionError("it was to be refused")
        except InvalidStatus as error:
            assert error.response.status_code == 403


async def subprotocol(case):
    offered = {"subprotocols": ["chat.v2", "chat.v1"], "user_agent_header": "golden/1"}
    async with capture(case), server(subprotocols=["chat.v1"]):
        async with client("/chat", origin="http://here.example", **offered) as connection:
            assert connection.subprotocol == "chat.v1"
            await connection.send("hello")
            await connection.recv()


async def midstream(case):
    async with server(), client("/older") as connection:
        await talk(connection)
        async with capture(case):
            await talk(connection)
            await connection.close(4000, "seen")


async def still_open(case):
    async with server(), contextlib.AsyncExitStack() as stack:
        async with capture(case):
            connection = await stack.enter_async_context(client("/open"))
            await connection.send("hello")
            await connection.recv()


async def ipv6(case):
    async with capture(case), server(addresses=V6):
        async with client("/six", addresses=V6) as connection:
            await talk(connection)


async def two_at_once(case):
    async with capture(case), server():
        async with client("/one") as one, client("/two") as two:
            for message in ("a", "b", "c"):
                await one.send(message)
                await two.send(message * 2)
                await one.recv()
                await two.recv()
            await two.close(3001)


CASES = {
    case.__name__: case
    for case in (
        messages,
        server_closes,
        fragments,
        compressed,
        rst,
        fin,
        refused,
        subprotocol,
        midstream,
        still_open,
        ipv6,
        two_at_once,
    )
}


async def generate(cases):
    for name in cases:
        await asyncio.wait_for(CASES[name](name), 30)
        print(name)


def main():
    cases = sys.argv[1:] or list(CASES)
    if unknown := set(cases) - set(CASES):
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    if INSIDE not in os.environ:
        command = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    commands = ["ip link set lo up"]
    commands += [f"ip address add {address}/32 dev lo" for address in V4]
    commands += [f"ip address add {address}/128 dev lo nodad" for address in V6]
    for command in commands:
        assert os.system(command) == 0, command
    asyncio.run(generate(cases))


if __name__ == "__main__":
    main()
