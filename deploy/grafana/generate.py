#!/usr/bin/env python3
"""Writes the dashboards: operators.json and agents.json, into the folder that is given.

What is in here is what a dashboard is about: a title, a query, a unit. The rest is the same for all panels. `cargo xtask deploy
--write` calls it; `cargo xtask deploy` sees that what lies beside it is what it writes.
"""

import json
import sys
from pathlib import Path

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# A connection of two nodes is seen by the agents of both: the variable `side` has it counted at one of them.
ENDPOINT = 'server_namespace=~"$namespace", server_workload=~"$workload", path=~"$path", side=~"$side"'
WORKLOAD = "server_namespace, server_workload"
WORKLOAD_NAME = "{{server_namespace}}/{{server_workload}}"
AGENT = 'instance=~"$instance"'

# Endings with these codes went wrong; 1006 is no close frame at all. The same as in the alert.
ABNORMAL = 'code=~"100[236789]|101[01345]|invalid"'
ENDED = 'kind!~"eof|evicted"'
OPENED = 'outcome=~"accepted|invalid"'
FAILED = 'outcome=~"rejected|unanswered|invalid"'
ATTEMPTED = 'outcome!="midstream"'

# Buckets of websocket_connection_silence_seconds that hold a usual time-out: its name, and the bounds around it.
TIMEOUTS = [
    ("30 s", "29.5", "31.5"),
    ("60 s", "59.5", "62.5"),
    ("100 s", "99.5", "103.5"),
    ("240 s", "239.5", "245.5"),
    ("300 s", "299.5", "305.5"),
    ("350 s", "349.5", "355.5"),
    ("600 s", "599.5", "611.5"),
    ("3600 s", "3599.5", "3659.5"),
]


def rate(metric, labels="", selection=ENDPOINT, window="$__rate_interval", function="rate"):
    matchers = ", ".join(part for part in (selection, labels) if part)
    return f"{function}({metric}{{{matchers}}}[{window}])"


def ratio(part, whole):
    return f"{part} / {whole}"


def quantile(q, metric, by=""):
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({by}) ({rate(metric + '_bucket')}))"


def query(expr, legend="", instant=False, table=False):
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "format": "table" if table else "time_series",
        "instant": instant,
        "legendFormat": legend or "__auto",
        "range": not instant,
    }


def panel(kind, title, description, queries, width, height, unit, options, custom=None, **defaults):
    field = {"unit": unit, **defaults}
    if custom is not None:
        field["custom"] = custom
    targets = [{**target, "refId": chr(ord("A") + n)} for n, target in enumerate(queries)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
    }


def lines(title, description, *queries, unit="short", width=12, height=8, stacked=False, **defaults):
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    options = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["mean", "lastNotNull"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"min": 0, **defaults}
    return panel("timeseries", title, description, queries, width, height, unit, options, custom, **defaults)


def number(title, description, expr, unit="short", width=4, steps=None):
    colors = [{"color": "green", "value": None}]
    colors += [{"color": color, "value": value} for color, value in steps or []]
    options = {
        "colorMode": "value" if steps else "none",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    thresholds = {"mode": "absolute", "steps": colors}
    return panel("stat", title, description, [query(expr)], width, 4, unit, options, thresholds=thresholds)


def bars(title, description, *queries, unit="short", width=12, height=8):
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "text",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "namePlacement": "auto",
        "sizing": "auto",
    }
    return panel("bargauge", title, description, queries, width, height, unit, options, min=0)


def table(title, description, expr, sort, unit="short", width=24, height=8):
    options = {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": True}]}
    result = panel(
        "table", title, description, [query(expr, instant=True, table=True)], width, height, unit, options
    )
    result["transformations"] = [
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": sort}}}
    ]
    return result


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1, "x": 0, "y": 0}}


def variable(name, label, values, description):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"query": values, "refId": "values"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Also where there is no such label, as without Kubernetes.
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
        "regex": "",
        "skipUrlSync": False,
    }


def choice(name, label, options, description):
    first = next(iter(options.items()))
    return {
        "type": "custom",
        "name": name,
        "label": label,
        "description": description,
        "query": ", ".join(f"{text} : {value}" for text, value in options.items()),
        "multi": False,
        "includeAll": False,
        "current": {"selected": True, "text": first[0], "value": first[1]},
        "options": [
            {"selected": n == 0, "text": text, "value": value} for n, (text, value) in enumerate(options.items())
        ],
        "hide": 0,
        "skipUrlSync": False,
    }


def source():
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "multi": False,
        "includeAll": False,
        "refresh": 1,
        "regex": "",
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


def dashboard(uid, title, description, variables, panels):
    x = y = height = 0
    for number_, each in enumerate(panels, 1):
        place = each["gridPos"]
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        place.update(x=x, y=y)
        x, height = x + place["w"], max(height, place["h"])
        each["id"] = number_
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["websocket", "wstap"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "wstap",
                "icon": "external link",
                "tooltip": "",
                "url": "",
                "tags": ["wstap"],
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": False,
                "keepTime": True,
            }
        ],
        "annotations": {"list": []},
        "templating": {"list": variables},
        "panels": panels,
    }


def operators():
    by = f"sum by ({WORKLOAD})"
    closed = rate("websocket_connections_closed_total", ENDED)
    abnormal = rate("websocket_connections_closed_total", ABNORMAL)
    handshakes = "websocket_handshakes_total"
    silence = "websocket_connection_silence_seconds_bucket"
    low = [("orange", 0.1), ("red", 0.25)]

    def within(below, above, window, function):
        inner = [
            f'sum({rate(silence, f"le={chr(34)}{bound}{chr(34)}", window=window, function=function)})'
            for bound in (above, below)
        ]
        return " - ".join(inner)

    panels = [
        number("Open", "WebSockets that are open now.", f"sum(websocket_connections_active{{{ENDPOINT}}})"),
        number("Opened a second", "Upgrades that were accepted.", f"sum({rate(handshakes, OPENED)})", "ops"),
        number("Ended a second", "However they ended.", f"sum({closed})", "ops"),
        number(
            "Ended abnormally",
            "Share of the endings without a close frame, or with a code that says that something went wrong.",
            ratio(f"sum({abnormal})", f"sum({closed})"),
            "percentunit",
            steps=low,
        ),
        number(
            "Upgrades that fail",
            "Share of the attempts that were refused, not answered or answered wrongly.",
            ratio(f"sum({rate(handshakes, FAILED)})", f"sum({rate(handshakes, ATTEMPTED)})"),
            "percentunit",
            steps=low,
        ),
        number(
            "Median round trip",
            "Of pings, whoever sent them.",
            quantile(0.5, "websocket_ping_rtt_seconds"),
            "s",
        ),
        row("Connections"),
        lines(
            "Open, by workload",
            "Each counted once, at the end that the variable says.",
            query(f"{by} (websocket_connections_active{{{ENDPOINT}}})", WORKLOAD_NAME),
            stacked=True,
        ),
        lines(
            "Opened and ended a second",
            "Where more end than open for long, clients do not come back; where both rise together, they come back at once.",
            query(f"sum({rate(handshakes, OPENED)})", "opened"),
            query(f"sum({closed})", "ended"),
            unit="ops",
        ),
        lines(
            "How long they were open",
            "Of those that ended.",
            query(quantile(0.5, "websocket_connection_duration_seconds"), "median"),
            query(quantile(0.9, "websocket_connection_duration_seconds"), "90 %"),
            unit="s",
        ),
        lines(
            "Open, by path",
            "The ten busiest paths.",
            query(f"topk(10, sum by (path) (websocket_connections_active{{{ENDPOINT}}}))", "{{path}}"),
        ),
        row("Why they end"),
        lines(
            "Ended, by kind",
            "clean: close frames both ways. half: one way only. fin, rst: none at all. idle: silent for --idle-timeout.",
            query(f"sum by (kind) ({rate('websocket_connections_closed_total')})", "{{kind}}"),
            unit="ops",
            width=8,
            stacked=True,
        ),
        lines(
            "Ended, by code",
            "1006: no close frame. 1005: one without a code.",
            query(f"sum by (code) ({closed})", "{{code}}"),
            unit="ops",
            width=8,
            stacked=True,
        ),
        lines(
            "Who ended them",
            "Who sent the first close frame; without one, the first FIN or RST.",
            query(f"sum by (initiator) ({closed})", "{{initiator}}"),
            unit="ops",
            width=8,
            stacked=True,
        ),
        lines(
            "Ended abnormally, by workload",
            "Share of the endings without a close frame, or with a code that says that something went wrong.",
            query(ratio(f"{by} ({abnormal})", f"{by} ({closed})"), WORKLOAD_NAME),
            unit="percentunit",
            max=1,
        ),
        lines(
            "Abnormal endings, by workload, kind and initiator",
            "rst by the server with 1006 is a crash or a proxy; fin by the client is a tab that was closed without a word.",
            query(
                f"topk(10, sum by ({WORKLOAD}, kind, code, initiator) ({abnormal}))",
                f"{WORKLOAD_NAME} {{{{kind}}}} {{{{code}}}} {{{{initiator}}}}",
            ),
            unit="ops",
        ),
        bars(
            "Time-outs: endings after a silence of just so long",
            "A bar that stands out is the time-out of something in between: 60 s nginx and many load balancers, 100 s a CDN, 300 s and "
            "3600 s proxies, 350 s a network load balancer. Keep-alive pings more often than that are the remedy.",
            *[
                query(within(below, above, "$__range", "increase"), name, instant=True)
                for name, below, above in TIMEOUTS
            ],
        ),
        lines(
            "The same, a second",
            "Silence before the ending, at the usual time-outs.",
            *[query(within(below, above, "$__rate_interval", "rate"), name) for name, below, above in TIMEOUTS],
            unit="ops",
        ),
        row("Traffic"),
        lines(
            "Messages a second",
            "Complete messages, over all their fragments.",
            query(
                f"sum by (direction, type) ({rate('websocket_messages_total')})", "{{direction}} {{type}}"
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "Frames a second, by opcode",
            "Of both directions.",
            query(f"sum by (opcode) ({rate('websocket_frames_total')})", "{{opcode}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Payload",
            "On the wire: without headers, before inflating.",
            query(
                f"sum by (direction) ({rate('websocket_frame_payload_bytes_total')})", "{{direction}}"
            ),
            unit="Bps",
            width=8,
        ),
        lines(
            "Size of messages",
            "On the wire.",
            query(quantile(0.5, "websocket_message_size_bytes", "direction"), "{{direction}} median"),
            query(quantile(0.99, "websocket_message_size_bytes", "direction"), "{{direction}} 99 %"),
            unit="bytes",
            width=8,
        ),
        lines(
            "Mean size of frames",
            "Of frames that are over.",
            query(
                ratio(
                    f"sum by (direction) ({rate('websocket_frame_size_bytes_sum')})",
                    f"sum by (direction) ({rate('websocket_frame_size_bytes_count')})",
                ),
                "{{direction}}",
            ),
            unit="bytes",
            width=8,
        ),
        lines(
            "Payload, by workload",
            "Of both directions.",
            query(f"{by} ({rate('websocket_frame_payload_bytes_total')})", WORKLOAD_NAME),
            unit="Bps",
            width=8,
        ),
        row("Health"),
        lines(
            "Round trip of pings",
            "Beside the server, a ping of the server measures the way to the client, and one of the client the server itself.",
            query(quantile(0.5, "websocket_ping_rtt_seconds", "direction"), "{{direction}} median"),
            query(quantile(0.99, "websocket_ping_rtt_seconds", "direction"), "{{direction}} 99 %"),
            unit="s",
            width=8,
        ),
        lines(
            "Pings without an answer",
            "Found when their connection ends. The direction is the ping's.",
            query(
                f"sum by ({WORKLOAD}, direction) ({rate('websocket_unanswered_pings_total')})",
                f"{WORKLOAD_NAME} {{{{direction}}}}",
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "Protocol violations",
            "Rules of RFC 6455 and RFC 7692 that were broken, by whose direction.",
            query(
                f"sum by (direction, rule) ({rate('websocket_protocol_violations_total')})",
                "{{direction}} {{rule}}",
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "Upgrades that fail, by status",
            "Without a status: not answered.",
            query(
                f"sum by ({WORKLOAD}, outcome, status) ({rate(handshakes, FAILED)})",
                f"{WORKLOAD_NAME} {{{{outcome}}}} {{{{status}}}}",
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "Time to open",
            "From the first byte of the request to the last of the answer's head.",
            query(quantile(0.5, "websocket_handshake_duration_seconds"), "median"),
            query(quantile(0.99, "websocket_handshake_duration_seconds"), "99 %"),
            unit="s",
            width=8,
        ),
        lines(
            "Subprotocols",
            "Of the connections that were opened.",
            query(f"sum by (subprotocol) ({rate(handshakes, OPENED)})", "{{subprotocol}}"),
            unit="ops",
            width=8,
        ),
        table(
            "Endpoints",
            "The fifty with the most open connections.",
            f"topk(50, sum by (server_namespace, server_workload, server, path) "
            f"(websocket_connections_active{{{ENDPOINT}}}))",
            "Open",
        ),
    ]
    active = "websocket_connections_active"
    variables = [
        source(),
        variable(
            "namespace", "Namespace", f"label_values({active}, server_namespace)", "Of the server's pod."
        ),
        variable(
            "workload",
            "Workload",
            f'label_values({active}{{server_namespace=~"$namespace"}}, server_workload)',
            "Of the server's pod.",
        ),
        variable(
            "path",
            "Path",
            f'label_values({active}{{server_namespace=~"$namespace", server_workload=~"$workload"}}, path)',
            "Of the request, as --path-label says.",
        ),
        choice(
            "side",
            "Counted at",
            {
                "the server's node": "server|both|unknown",
                "the client's node": "client|both|unknown",
                "every node": "client|server|both|unknown",
            },
            "A connection between two nodes is seen by the agents of both. Connections to servers outside the cluster show at the "
            "client's node.",
        ),
    ]
    return dashboard(
        "wstap-operators",
        "WebSockets",
        "What WebSockets exchange, how healthy they are, and why they end.",
        variables,
        panels,
    )


def agents():
    def count(metric, labels="", window="$__rate_interval", function="rate"):
        return rate(metric, labels, AGENT, window, function)

    def each(expr):
        return f"sum by (instance) ({expr})"

    packets = "wstap_kernel_packets_total"
    good = [("red", 1)]
    mine = f"and on (job, instance) wstap_build_info{{{AGENT}}}"
    panels = [
        number("Agents", "That were scraped.", f"count(wstap_build_info{{{AGENT}}})"),
        number(
            "Without an interface",
            "Agents that see nothing.",
            f"count(wstap_interfaces_attached{{{AGENT}}} == 0) or vector(0)",
            steps=good,
        ),
        number(
            "Records lost a second",
            "Of all agents, for whatever reason.",
            f"sum({count('wstap_samples_lost_total')})",
            "ops",
            steps=[("red", 0.001)],
        ),
        number("TCP connections tracked", "WebSockets among them.", f"sum(wstap_connections_tracked{{{AGENT}}})"),
        number(
            "Memory of the fullest agent",
            "Resident; the kernel's maps are not in it, but for what the agent has read of them.",
            f"max(process_resident_memory_bytes{{{AGENT}}} {mine})",
            "bytes",
        ),
        number(
            "Processor time of the busiest",
            "What the kernel program takes is not in it.",
            f"max({count('process_cpu_seconds_total')} {mine})",
            "percentunit",
        ),
        row("Losses"),
        lines(
            "Records lost, by reason",
            "ring_full: the agent fell behind. copy_failed: the packet could not be read. undecodable: program and agent are of "
            "different builds.",
            query(f"sum by (instance, reason) ({count('wstap_samples_lost_total')})", "{{instance}} {{reason}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Details missed",
            "Records of frames that never reached the agent. The frames are counted all the same.",
            query(each(count("wstap_records_missed_total")), "{{instance}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Gaps",
            "Bytes that were missing where they were needed, what was found again behind them, and frames that were in them.",
            query(f"sum({count('wstap_gaps_total')})", "gaps"),
            query(f"sum({count('wstap_resyncs_total')})", "found again"),
            query(f"sum({count('wstap_frames_lost_total')})", "frames lost"),
            query(f"sum({count('wstap_retransmission_conflicts_total')})", "conflicting retransmissions"),
            unit="ops",
            width=8,
        ),
        lines(
            "Limits exceeded",
            "docs/metrics.md says what each bounds, and which flag sets it.",
            query(
                f"sum by (instance, limit) ({count('wstap_limit_exceeded_total')}) > 0 or "
                f"sum({count('wstap_limit_exceeded_total')})",
                "{{instance}} {{limit}}",
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "WebSockets, of what there is room for",
            "Beyond 1 the one that was silent longest is given up.",
            query(
                ratio(
                    each(f"websocket_connections_active{{{AGENT}}}"),
                    each(f'wstap_limit{{{AGENT}, limit="connections"}}'),
                ),
                "{{instance}}",
            ),
            unit="percentunit",
            width=8,
        ),
        lines(
            "Endpoints, of what there is room for",
            "Beyond 1 the rest is counted as other.",
            query(
                ratio(
                    f"count by (instance) (count by (instance, server, path, side) "
                    f"(websocket_connections_active{{{AGENT}}}))",
                    each(f'wstap_limit{{{AGENT}, limit="endpoints"}}'),
                ),
                "{{instance}}",
            ),
            unit="percentunit",
            width=8,
        ),
        row("Load"),
        lines(
            "Packets, by verdict",
            "What the kernel program did with them, each counted once for every hook that it passed.",
            query(f"sum by (verdict) ({count(packets)})", "{{verdict}}"),
            unit="pps",
            stacked=True,
        ),
        lines(
            "Packets copied whole",
            "Their share. Much of it means that places are lost, or --copy whole.",
            query(
                ratio(each(count(packets, 'verdict="sampled"')), each(count(packets))),
                "{{instance}}",
            ),
            unit="percentunit",
        ),
        lines(
            "Processor time",
            "Of the agent; what the kernel program takes is not in it.",
            query(f"{count('process_cpu_seconds_total')} {mine}", "{{instance}}"),
            unit="percentunit",
            width=8,
        ),
        lines(
            "Records",
            "From the kernel program to the agent.",
            query(each(count("wstap_samples_total")), "{{instance}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Bytes copied",
            "In these records, besides their heads.",
            query(each(count("wstap_sample_bytes_total")), "{{instance}}"),
            unit="Bps",
            width=8,
        ),
        lines(
            "Places lost and found",
            "Directions that went over to being copied whole, and back; and segments that waited for the one before them.",
            query(f"sum({count('wstap_kernel_places_lost_total')})", "lost"),
            query(f"sum({count('wstap_kernel_places_found_total')})", "found"),
            query(f"sum({count('wstap_kernel_early_segments_total')})", "early segments"),
            unit="ops",
            width=8,
        ),
        lines(
            "Connections that cannot be read",
            "TLS: there may be WebSockets in them.",
            query(f"sum by (reason) ({count('wstap_unreadable_connections_total')})", "{{reason}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Scrapes",
            "How long they take.",
            query(f"scrape_duration_seconds{{{AGENT}}} {mine}", "{{instance}}"),
            unit="s",
            width=8,
        ),
        row("Room"),
        lines(
            "Memory",
            "Resident. The kernel's maps count against the pod as well: see docs/operations.md.",
            query(f"process_resident_memory_bytes{{{AGENT}}} {mine}", "{{instance}}"),
            unit="bytes",
            width=8,
        ),
        lines(
            "Connections tracked",
            "TCP connections of any kind that take memory in the agent.",
            query(f"wstap_connections_tracked{{{AGENT}}}", "{{instance}}"),
            width=8,
        ),
        lines(
            "Interfaces",
            "To which the kernel program is attached.",
            query(f"wstap_interfaces_attached{{{AGENT}}}", "{{instance}}"),
            width=8,
        ),
        lines(
            "Series",
            "That a scrape brings.",
            query(f"scrape_samples_scraped{{{AGENT}}} {mine}", "{{instance}}"),
            width=8,
        ),
        lines(
            "Open files",
            "Of what there may be.",
            query(f"process_open_fds{{{AGENT}}} / process_max_fds {mine}", "{{instance}}"),
            unit="percentunit",
            width=8,
        ),
        lines(
            "Age",
            "Since the agent was started; a saw is one that restarts.",
            query(f"time() - process_start_time_seconds{{{AGENT}}} {mine}", "{{instance}}"),
            unit="s",
            width=8,
        ),
        lines(
            "Errors at the API server",
            "Times that listing or watching failed; after each the agent waits longer, up to half a minute.",
            query(
                f"sum by (instance, resource) ({count('wstap_kubernetes_watch_errors_total')})",
                "{{instance}} {{resource}}",
            ),
            unit="ops",
            width=8,
        ),
        lines(
            "Pods known by name",
            "Of the agent's node.",
            query(f"wstap_kubernetes_pods{{{AGENT}}}", "{{instance}}"),
            width=8,
        ),
        lines(
            "Network namespaces",
            "That are followed besides the agent's own, and that could not be.",
            query(f"wstap_network_namespaces{{{AGENT}}}", "{{instance}}"),
            query(f"wstap_network_namespaces_failed_total{{{AGENT}}}", "{{instance}} failed"),
            width=8,
        ),
        table(
            "Builds",
            "Agents by version.",
            f"count by (version, revision) (wstap_build_info{{{AGENT}}})",
            "Agents",
            height=5,
        ),
    ]
    variables = [
        source(),
        variable("instance", "Agent", "label_values(wstap_build_info, instance)", "As it is scraped."),
    ]
    return dashboard(
        "wstap-agents",
        "WebSockets: the agents",
        "Whether wstap itself is well: what it missed, what it costs, how near its limits it is.",
        variables,
        panels,
    )


def main():
    folder = Path(sys.argv[1])
    for name, content in (("operators.json", operators()), ("agents.json", agents())):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
