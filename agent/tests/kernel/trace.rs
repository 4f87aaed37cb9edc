//! `wstap trace` says of live traffic what `wstap read` says of a capture of it.

use std::{collections::BTreeMap, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Pair, at,
    support::{
        agent::{Process, WSTAP, events, held},
        eventually,
        load::{Load, Script},
        machine::turn,
    },
};

/// What belongs to the place and the moment, not to the traffic.
const INCIDENTAL: [&str; 7] = [
    "conn",
    "interface",
    "ts",
    "latency_ns",
    "rtt_ns",
    "duration_ns",
    "silence_ns",
];

const ALL_EVENTS: [&str; 6] = [
    "--event=handshake",
    "--event=frame",
    "--event=message",
    "--event=close",
    "--event=violation",
    "--event=gap",
];

/// The events of each connection by direction, without the incidental. How the two directions
/// interleave depends on who looks where.
fn by_connection(events: Vec<Value>) -> BTreeMap<(String, String), Vec<Value>> {
    let mut sorted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for mut event in events {
        let word = |key: &str| event[key].as_str().unwrap_or("").to_owned();
        let key = (word("client"), word("dir"));
        let object = event.as_object_mut().expect("an object");
        for key in INCIDENTAL {
            object.remove(key);
        }
        // TCP's own troubles depend on where one looks: a capture may see a segment before it is
        // split, and one that is dropped behind it.
        object.remove("tcp");
        sorted.entry(key).or_default().push(event);
    }
    sorted
}

#[test]
fn equals_read_of_a_capture() {
    let Some(_turn) = turn() else { return };
    for (attach, copy) in [("tcx", "headers"), ("clsact", "headers"), ("tcx", "whole")] {
        let pair = Pair::new();
        let folder = tempfile::tempdir().expect("a folder");
        let capture = folder.path().join("capture.pcap");
        let mut command = pair.client.command("tcpdump");
        command.args([
            "-i", "c0", "-s", "0", "-U", "-B", "65536", "-Z", "root", "-w",
        ]);
        command.arg(&capture).arg("tcp port 8080");
        let tcpdump = Process::spawn(command);
        eventually("tcpdump listens", Duration::from_secs(10), || {
            let stderr = tcpdump.stderr();
            if stderr.contains("listening on") {
                Ok(())
            } else {
                Err(stderr)
            }
        });
        let mut command = pair.client.command(WSTAP);
        command.args([
            "trace", "-i", "c0", "-o", "json", "--attach", attach, "--copy", copy,
        ]);
        command.args(ALL_EVENTS);
        let mut trace = Process::spawn(command);
        // Nothing is said on standard output until something happens: the kernel tells that the
        // hooks are there.
        eventually("trace is attached", Duration::from_secs(15), || {
            trace.must_live();
            let links = held(trace.pid(), "link_id").len();
            let filters = pair.client.tc("filter show dev c0 ingress")
                + &pair.client.tc("filter show dev c0 egress");
            let filters = filters
                .lines()
                .filter(|line| line.contains("wstap_"))
                .count();
            if links >= 2 || filters >= 2 {
                Ok(())
            } else {
                Err("no hook".to_owned())
            }
        });
        std::thread::sleep(Duration::from_millis(300));

        let script = Script {
            connections: 4,
            ..Script::default()
        };
        let tally = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            script,
            40,
        );
        eventually(
            "the last close event is printed",
            Duration::from_secs(10),
            || {
                let stdout = trace.stdout();
                let closes = stdout
                    .lines()
                    .filter(|line| line.contains("\"event\":\"close\""))
                    .count();
                if closes == 4 {
                    Ok(())
                } else {
                    Err(format!("{closes} are"))
                }
            },
        );
        trace.signal(Signal::SIGINT);
        let (status, live) = trace.wait(Duration::from_secs(10));
        assert!(status.success(), "{status}");

        let live = events(&live);
        // tcpdump is behind, and would forget what it has not read yet if it were told to stop.
        let recorded = eventually("the capture is complete", Duration::from_secs(10), || {
            let output = Command::new(WSTAP)
                .args(["read", "-o", "json"])
                .args(ALL_EVENTS)
                .arg(&capture)
                .output()
                .expect("the binary runs");
            // Until then its last packet may be half written.
            let read = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && read.matches("\"kind\":\"clean\"").count() == 4 {
                Ok(events(&read))
            } else {
                let stderr = String::from_utf8_lossy(&output.stderr);
                Err(format!("{} lines, {stderr}", read.lines().count()))
            }
        });
        drop(tcpdump);
        let frames = live
            .iter()
            .filter(|event| event["event"] == "frame")
            .count() as u64;
        let sent = tally.client_to_server.total() + tally.server_to_client.total();
        assert_eq!(frames, sent, "frames printed and frames sent");
        assert!(
            live.iter().all(|event| event["interface"] == "c0"),
            "live events name it"
        );

        let (live, recorded) = (by_connection(live), by_connection(recorded));
        assert!(
            live.keys().eq(recorded.keys()),
            "{:?} {:?}",
            live.keys(),
            recorded.keys()
        );
        for (key, live) in &live {
            for (n, (live, recorded)) in live.iter().zip(&recorded[key]).enumerate() {
                assert_eq!(live, recorded, "event {n} of {key:?}");
            }
            assert_eq!(live.len(), recorded[key].len(), "events of {key:?}");
        }
    }
}

/// How far the times may lie apart of what two programs have seen of one packet.
const BETWEEN: u64 = 50_000_000;

/// The times of an ending.
fn times(event: &Value) -> [u64; 2] {
    ["duration_ns", "silence_ns"].map(|key| event[key].as_u64().unwrap_or_default())
}

#[test]
fn headers_alone_say_what_whole_segments_say() {
    headers_and_whole_segments_say_the_same(&[]);
}

#[test]
fn previews_that_come_with_headers_are_those_of_whole_segments() {
    headers_and_whole_segments_say_the_same(&["--payload=40"]);
}

fn headers_and_whole_segments_say_the_same(flags: &[&str]) {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let traces = ["headers", "whole"].map(|copy| {
        let mut command = pair.client.command(WSTAP);
        command.args(["trace", "-i", "c0", "-o", "json", "--copy", copy]);
        command.args(ALL_EVENTS).args(flags);
        let mut trace = Process::spawn(command);
        eventually("trace is attached", Duration::from_secs(15), || {
            trace.must_live();
            if held(trace.pid(), "link_id").len() >= 2 {
                Ok(())
            } else {
                Err("no hook".to_owned())
            }
        });
        trace
    });
    std::thread::sleep(Duration::from_millis(300));
    let script = Script {
        connections: 6,
        ..Script::default()
    };
    let (client, server) = (&pair.client, &pair.server);
    let tally = Load::whole(client, server, at(Pair::V4), at(Pair::V4), script, 200);
    let [walked, whole] = traces.map(|trace| {
        eventually("all ends are printed", Duration::from_secs(10), || {
            let ends = trace.stdout().matches("\"event\":\"close\"").count();
            (ends == 6)
                .then_some(())
                .ok_or_else(|| format!("{ends} are"))
        });
        trace.signal(Signal::SIGINT);
        events(&trace.wait(Duration::from_secs(10)).1)
    });
    let frames = walked.iter().filter(|event| event["event"] == "frame");
    let sent = tally.client_to_server.total() + tally.server_to_client.total();
    assert_eq!(
        frames.count() as u64,
        sent,
        "frames printed and frames sent"
    );

    let ends = |events: &[Value]| -> BTreeMap<String, Value> {
        let ends = events.iter().filter(|event| event["event"] == "close");
        ends.map(|event| (event["client"].to_string(), event.clone()))
            .collect()
    };
    for (walked, whole) in ends(&walked).values().zip(ends(&whole).values()) {
        assert_eq!(walked["tcp"], whole["tcp"], "{walked} {whole}");
        for (walked, whole) in times(walked).into_iter().zip(times(whole)) {
            assert!(walked.abs_diff(whole) < BETWEEN, "{walked} {whole}");
        }
    }
    let (walked, whole) = (by_connection(walked), by_connection(whole));
    assert!(walked.keys().eq(whole.keys()));
    for (key, walked) in &walked {
        for (n, (walked, whole)) in walked.iter().zip(&whole[key]).enumerate() {
            assert_eq!(walked, whole, "event {n} of {key:?}");
        }
        assert_eq!(walked.len(), whole[key].len(), "events of {key:?}");
    }
}
