//! What two agents say of the same traffic, side by side.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

/// Two agents take the time one after the other, and a virtual machine may stand still in between.
const TOLERANCE: u64 = 15_000_000;
/// Events around a difference that are shown.
const AROUND: usize = 2;
/// By what is a matter of payload, not of headers.
const OF_PAYLOAD: [&str; 2] = ["invalid_utf8", "invalid_deflate"];

/// What is compared of a connection besides frames, messages, violations and the ending.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// When each event was.
    pub times: bool,
    /// Whose close was first, and how long it was silent before.
    pub ending: bool,
    /// When it was over, which for one that is open is when the agents are.
    pub duration: bool,
    /// Which ping a pong answers.
    pub round_trips: bool,
    /// TCP's counters.
    pub tcp: bool,
}

/// All that was said of one connection.
#[derive(Debug, Default)]
pub struct Told {
    /// What concerns no direction: handshakes and the ending.
    both: Vec<Value>,
    /// What was sent by client and by server.
    sides: [Vec<Value>; 2],
}

/// Sorts events by connection: client, server and, where there are several, a number.
pub fn by_connection(events: &[Value]) -> BTreeMap<String, Told> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let mut connections: BTreeMap<String, Told> = BTreeMap::new();
    for event in events {
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let name = names.entry(word("conn").to_owned()).or_insert_with(|| {
            let pair = format!("{} > {}", word("client"), word("server"));
            let number = numbers.entry(pair.clone()).or_default();
            *number += 1;
            format!("{pair} #{number}")
        });
        let told = connections.entry(name.clone()).or_default();
        let list = match word("dir") {
            "client_to_server" => &mut told.sides[0],
            "server_to_client" => &mut told.sides[1],
            _ => &mut told.both,
        };
        if word("event") != "gap" && !OF_PAYLOAD.contains(&word("rule")) {
            list.push(event.clone());
        }
    }
    connections
}

/// What differs, `None` where nothing does.
pub fn difference(whole: &Told, walked: &Told, exact: Exact) -> Option<String> {
    let lists = [
        ("both", &whole.both, &walked.both),
        ("client", &whole.sides[0], &walked.sides[0]),
        ("server", &whole.sides[1], &walked.sides[1]),
    ];
    let mut text = String::new();
    for (name, whole, walked) in lists {
        let len = whole.len().max(walked.len());
        let at = (0..len).find(|at| match (whole.get(*at), walked.get(*at)) {
            (Some(whole), Some(walked)) => differ(whole, walked, exact).is_some(),
            _ => true,
        });
        if let Some(at) = at {
            let pair = whole.get(at).zip(walked.get(at));
            let field = pair.and_then(|(whole, walked)| differ(whole, walked, exact));
            let field = field.unwrap_or_default();
            let (n, m) = (whole.len(), walked.len());
            let _ = writeln!(text, "{name}: event {at} of {n} and {m}: {field}");
            for (who, list) in [("whole", whole), ("headers", walked)] {
                let from = at.saturating_sub(AROUND);
                for (i, event) in list.iter().enumerate().skip(from).take(2 * AROUND) {
                    let mark = if i == at { '>' } else { ' ' };
                    let _ = writeln!(text, "{mark} {who} {i}: {}", short(event));
                }
            }
        }
    }
    (!text.is_empty()).then_some(text)
}

/// An event without what is known from its connection.
fn short(event: &Value) -> String {
    let known = ["client", "server", "interface", "conn", "dir"];
    let fields = event.as_object().into_iter().flatten();
    let fields = fields.filter(|(key, _)| !known.contains(&key.as_str()));
    let fields: Vec<_> = fields
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    fields.join(", ")
}

/// The field that differs, with both values.
fn differ(whole: &Value, walked: &Value, exact: Exact) -> Option<String> {
    let (Some(a), Some(b)) = (whole.as_object(), walked.as_object()) else {
        return Some("no object".to_owned());
    };
    let keys = a.keys().chain(b.keys());
    // A message is over when its payload is, and that goes unseen where headers alone are copied;
    // what is still open ends with each agent.
    let timed = exact.times && whole["event"] != "message" && whole["kind"] != "eof";
    // The first close frame is that which was read first, and one may have had to wait.
    let ending = [
        "initiator",
        "code",
        "reason",
        "silence_ns",
        "duration_ns",
        "ts",
    ];
    let closes = whole["event"] == "close";
    let waited = closes && !exact.ending;
    let endless = closes && !exact.duration;
    for key in keys {
        let (a, b) = (a.get(key), b.get(key));
        if key == "tcp"
            && let Some((a, b)) = a.zip(b)
        {
            if exact.tcp && a != b {
                return Some(format!("tcp: whole {a}, headers {b}"));
            }
            continue;
        }
        let same = match key.as_str() {
            key if waited && ending.contains(&key) => true,
            "duration_ns" | "ts" if endless => true,
            "conn" | "inflated_len" => true,
            "ts" => !timed || near(nanos(a), nanos(b)),
            "rtt_ns" if !exact.round_trips => true,
            "duration_ns" | "silence_ns" | "latency_ns" | "rtt_ns" => {
                let number = |value: Option<&Value>| value.and_then(Value::as_u64);
                a.is_some() == b.is_some() && (!timed || near(number(a), number(b)))
            }
            _ => a == b,
        };
        if !same {
            return Some(format!("{key}: whole {a:?}, headers {b:?}"));
        }
    }
    None
}

fn near(a: Option<u64>, b: Option<u64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) <= TOLERANCE,
        _ => a == b,
    }
}

/// Nanoseconds since midnight.
pub fn nanos(ts: Option<&Value>) -> Option<u64> {
    let ts = ts?.as_str()?.strip_suffix('Z')?;
    let (_, clock) = ts.split_once('T')?;
    let (clock, fraction) = clock.split_once('.')?;
    let mut seconds = 0;
    for part in clock.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    let digits: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(seconds * 1_000_000_000 + digits)
}

/// Where the order of segments in which events were differs between the two: both see each segment
/// at a time of its own, so what is at one time here is at one time there, and in the same order.
pub fn disorder(
    whole: &BTreeMap<String, Told>,
    walked: &BTreeMap<String, Told>,
    leave_out: impl Fn(&str) -> bool,
) -> Option<String> {
    let mut pairs: Vec<(u64, u64, &Value, &Value)> = Vec::new();
    for (name, a) in whole {
        if leave_out(name) {
            continue;
        }
        let Some(b) = walked.get(name) else {
            continue;
        };
        for (a, b) in [(&a.sides[0], &b.sides[0]), (&a.sides[1], &b.sides[1])] {
            for (a, b) in a.iter().zip(b) {
                if a["event"] != "message"
                    && let (Some(at), Some(bt)) = (nanos(a.get("ts")), nanos(b.get("ts")))
                {
                    pairs.push((at, bt, a, b));
                }
            }
        }
    }
    pairs.sort_by_key(|(at, bt, ..)| (*at, *bt));
    pairs.windows(2).find_map(|pair| {
        let [(a, b, ..), (later_a, later_b, ..)] = pair else {
            return None;
        };
        (a.cmp(later_a) != b.cmp(later_b)).then(|| {
            let line =
                |(_, _, a, b): &(u64, u64, &Value, &Value)| format!("  whole {a}\n  headers {b}\n");
            format!(
                "times in another order:\n{}{}",
                line(&pair[0]),
                line(&pair[1])
            )
        })
    })
}
