#!/usr/bin/env python3
"""A server for a browser: a page that opens a WebSocket, and the WebSocket.

`/` is the page. What it does is said behind `?`, and the messages that it sends come back to it:

    whole      messages of several sizes, then a close with code and reason
    leave      one message, then another page
    stay       one message, and once it is back "seen", which does not come back; no end

Where the page lives to see the end it says what it saw (`GET /report?JSON`). Prints "ready" when it
listens, "seen" when that was said, and when the WebSocket is over one line of JSON:

    {"sent": {"frames": {opcode: n}, "bytes": {opcode: n}, "messages": {type: n}},
     "received": {...}, "closed": {code of the first close frame: connections},
     "page": what the page said, "sizes": [...]}

`sizes` are the lengths of the messages that it sent, in bytes and before they were compressed.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import urllib.parse

# The folder belongs to the sources.
sys.dont_write_bytecode = True

from counting import CLOSED, RECEIVED, SENT, CountingServer  # noqa: E402
from websockets.asyncio.server import serve  # noqa: E402
from websockets.datastructures import Headers  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.http11 import Response  # noqa: E402

LIFETIME = 60

PAGE = """<!DOCTYPE html>
<title>a page with a WebSocket</title>
<script>
const mode = location.search.slice(1);
const seen = {sent: {text: 0, binary: 0}, received: {text: 0, binary: 0}, lost: 0};
const random = n => Array.from({length: n}, () => Math.random().toString(36)[2]).join("");
const messages = mode !== "whole" ? ["only"] : [
    "", "x", "grüße, 世界", "a".repeat(125), "b".repeat(126), random(1000), "c".repeat(65535),
    new Uint8Array(0), new Uint8Array(65536), new TextEncoder().encode(random(200000)),
];
const socket = new WebSocket(`ws://${location.host}/socket`);
socket.binaryType = "arraybuffer";
const kind = data => typeof data === "string" ? "text" : "binary";
const same = (a, b) => kind(a) === kind(b) && (typeof a === "string" ? a === b
    : a.byteLength === b.byteLength && new Uint8Array(b).every((byte, i) => byte === a[i]));
let echoed = 0;
socket.onopen = () => messages.forEach(message => {
    socket.send(message);
    seen.sent[kind(message)] += 1;
});
socket.onmessage = ({data}) => {
    seen.received[kind(data)] += 1;
    seen.lost += same(messages[echoed++], data) ? 0 : 1;
    if (echoed < messages.length) return;
    if (mode === "whole") socket.close(3001, "the page is done");
    if (mode === "leave") location = "/other";
    if (mode === "stay") socket.send("seen");
};
socket.onclose = ({code, reason, wasClean}) => {
    const report = {...seen, extensions: socket.extensions, code, reason, wasClean};
    fetch("/report?" + encodeURIComponent(JSON.stringify(report)));
};
</script>
"""


async def server(args):
    over, reported = asyncio.Event(), asyncio.Event()
    page, sizes = {}, []

    def answer(connection, request):
        path, _, query = request.path.partition("?")
        if path == "/socket":
            return None
        if path == "/report":
            page.update(json.loads(urllib.parse.unquote(query)))
            reported.set()
        body = PAGE.encode() if path == "/" else b"nothing here"
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
        )
        return Response(200, "OK", headers, body)

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                sizes.append(len(message.encode() if isinstance(message, str) else message))
                if message == "seen":
                    print("seen", flush=True)
                else:
                    await connection.send(message)
        await connection.wait_closed()
        closed = connection.protocol.close_rcvd
        CLOSED[closed.code if closed else 1006] += 1
        over.set()

    extra = {
        "process_request": answer,
        "create_connection": CountingServer,
        "ping_interval": None,
        "max_size": None,
    }
    async with serve(handler, args.host, args.port, **extra):
        print("ready", flush=True)
        await over.wait()
        if args.report:
            await reported.wait()
    report = {"sent": SENT.report(), "received": RECEIVED.report(), "closed": CLOSED}
    print(json.dumps({**report, "page": page, "sizes": sizes}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--report", action="store_true", help="wait for the page's report")
    args = parser.parse_args()
    asyncio.run(asyncio.wait_for(server(args), LIFETIME))


if __name__ == "__main__":
    main()
