#!/usr/bin/env python3
"""Holds `wstap read` against tshark's dissection of the same captures.

    compare.py FOLDER [--wstap BINARY] [--rows FOLDER] [--verbose]

For each capture in FOLDER: connections, frames by direction and opcode, and frame by frame FIN,
reserved bits, masking, payload length, close code and reason. Prints a line a capture and below it
each difference; exits with 1 where there was any. `--rows` compares with rows that were written
before (NAME.jsonl, one object a frame) in place of the tshark that is installed; they have no
close reasons.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

SUFFIXES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz")
NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
NAMES.update({bits: f"reserved_{bits:x}" for bits in range(16) if bits not in NAMES})
COMPARED = ("opcode", "fin", "rsv", "masked", "len", "code", "reason")


def of_wstap(binary, capture):
    """Frames by connection (client, server) and direction, ports to dissect, and what was said."""
    command = [binary, "read", "-o", "json", capture]
    output = subprocess.run(command, capture_output=True, text=True)
    frames, ports = collections.OrderedDict(), set()
    for line in output.stdout.splitlines():
        event = json.loads(line)
        ports.add(event["server"].rsplit(":", 1)[1])
        if event["event"] == "frame":
            key = (event["client"], event["server"]), event["dir"]
            frames.setdefault(key, []).append({name: event.get(name) for name in COMPARED})
    complaint = output.stderr.strip() if output.returncode else ""
    return frames, ports, complaint


def of_tshark(capture, ports):
    """The same of the tshark that is installed."""
    command = ["tshark", "-r", capture, "-Y", "websocket", "-T", "pdml"]
    command += ["-o", "tcp.reassemble_out_of_order:TRUE"]
    for port in sorted(ports):
        command += ["-d", f"tcp.port=={port},http"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    packets = xml.etree.ElementTree.fromstring(output.stdout).iter("packet")
    frames = collections.OrderedDict()
    for packet in packets:
        ends = socket_addresses(packet)
        for websocket in packet.iter("proto"):
            if websocket.get("name") != "websocket":
                continue
            frame = dissected(websocket)
            ordered = ends if frame["masked"] else ends[::-1]
            direction = "client_to_server" if frame["masked"] else "server_to_client"
            frames.setdefault((ordered, direction), []).append(frame)
    return frames


def socket_addresses(packet):
    """Sender and receiver of a dissected packet, `ip:port`."""
    shown = {field.get("name"): field.get("show") for field in packet.iter("field")}
    ends = []
    for end in ("src", "dst"):
        ip = shown.get(f"ip.{end}") or f"[{shown[f'ipv6.{end}']}]"
        ends.append(f"{ip}:{shown[f'tcp.{end}port']}")
    return tuple(ends)


def dissected(websocket):
    shown = {}
    for field in websocket.iter("field"):
        shown.setdefault(field.get("name"), field.get("show"))

    def number(name):
        value = shown.get(f"websocket.{name}")
        if value in ("True", "False"):
            return int(value == "True")
        return None if value is None else int(value, 0)

    lengths = (number(f"payload_length{form}") for form in ("_ext_64", "_ext_16", ""))
    code = number("payload.close.status_code")
    return {
        "opcode": NAMES[number("opcode")],
        "fin": bool(number("fin")),
        "rsv": number("rsv"),
        "masked": bool(number("mask")),
        "len": next(length for length in lengths if length is not None),
        "code": code,
        "reason": shown.get("websocket.payload.close.reason"),
    }


def of_rows(path, connections):
    """The same of rows that were written before; streams are named in the order of `connections`."""
    frames, streams = collections.OrderedDict(), {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        stream = streams.setdefault(row["stream"], len(streams))
        unknown = (f"stream {row['stream']}", "")
        connection = connections[stream] if stream < len(connections) else unknown
        direction = {"c2s": "client_to_server", "s2c": "server_to_client"}[row["dir"]]
        frame = {
            "opcode": NAMES[row["opcode"]],
            "fin": row["fin"],
            "rsv": int(row["rsv"], 0),
            "masked": row["mask"],
            "len": row["len"],
            "code": int(row["close"]) if row.get("close") else None,
        }
        frames.setdefault((connection, direction), []).append(frame)
    return frames


def normal(frame, judge):
    """A frame as far as the judge knows it: tshark has no code or reason where there is none."""
    frame = {name: frame.get(name) for name in COMPARED if name in judge}
    if frame.get("code") == 1005:
        frame["code"] = None
    if "reason" in frame:
        frame["reason"] = frame["reason"] or None
    return frame


def differences(ours, theirs):
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        (client, server), direction = key
        where = f"{client} -> {server} {direction}"
        mine, judged = ours.get(key, []), theirs.get(key, [])
        counts = [collections.Counter(frame["opcode"] for frame in side) for side in (mine, judged)]
        if counts[0] != counts[1]:
            yield f"{where}: wstap {dict(counts[0])}, tshark {dict(counts[1])}"
        for n, (one, other) in enumerate(zip(mine, judged), 1):
            one, other = normal(one, other), normal(other, other)
            for name in (name for name in one if one[name] != other[name]):
                yield f"{where} frame {n} {name}: wstap {one[name]!r}, tshark {other[name]!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--wstap", default="target/release/wstap")
    parser.add_argument("--rows", type=pathlib.Path)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    captures = sorted(p for p in args.folder.iterdir() if p.name.endswith(SUFFIXES))
    differing = total = 0
    for capture in captures:
        ours, ports, complaint = of_wstap(args.wstap, capture)
        connections = list(dict.fromkeys(connection for connection, _ in ours))
        if args.rows:
            theirs = of_rows(args.rows / f"{capture.name}.jsonl", connections)
        else:
            theirs = of_tshark(capture, ports)
        found = list(differences(ours, theirs))
        if complaint:
            found.append(f"wstap: {complaint}")
        frames = sum(map(len, ours.values()))
        total += frames
        differing += bool(found)
        verdict = "differs" if found else "agrees"
        print(f"{verdict}  {capture.name}: {len(connections)} connections, {frames} frames")
        for line in found:
            print(f"    {line}")
        if args.verbose:
            for (connection, direction), side in ours.items():
                counts = dict(collections.Counter(frame["opcode"] for frame in side))
                size = sum(frame["len"] for frame in side)
                codes = [frame["code"] for frame in side if frame["opcode"] == "close"]
                print(f"    {' -> '.join(connection)} {direction}: {counts}, {size} bytes, {codes}")
    print(f"{len(captures)} captures, {total} frames, {differing} captures differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
