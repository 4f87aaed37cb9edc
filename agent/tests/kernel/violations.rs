//! Every rule of the contract, broken once over a real socket; and a conversation that breaks none.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use nix::sys::signal::Signal;
use wstap::proto::{event::Rule, upgrade::accept_for};

use super::{
    Pair, at,
    support::{
        agent::{Agent, events, trace},
        eventually,
        machine::turn,
    },
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const CLIENT: &str = "client_to_server";
const SERVER: &str = "server_to_client";

/// What is sent on one connection, and the rule that it breaks.
struct Case {
    name: &'static str,
    direction: &'static str,
    /// Headers of the request beside those that every request has.
    request: String,
    response: String,
    client: Vec<u8>,
    server: Vec<u8>,
    /// The bytes have no end that a close frame could follow, or are one.
    closes: bool,
}

fn case(rule: Rule, direction: &'static str) -> Case {
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    Case {
        name: rule.as_str(),
        direction,
        request: format!("{key}Sec-WebSocket-Version: 13\r\n"),
        response: format!("Sec-WebSocket-Accept: {}\r\n", accept_for(KEY)),
        client: Vec::new(),
        server: Vec::new(),
        closes: false,
    }
}

/// A case of bytes that the server sends.
fn server(rule: Rule, bytes: &[u8]) -> Case {
    Case {
        server: bytes.to_vec(),
        ..case(rule, SERVER)
    }
}

/// A case of what the handshake says.
fn handshake(rule: Rule, direction: &'static str, request: &str, response: &str) -> Case {
    Case {
        request: request.to_owned(),
        response: response.to_owned(),
        ..case(rule, direction)
    }
}

fn frame(first: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("a short payload");
    assert!(len < 126);
    let mut bytes = vec![first, len | if mask { 0x80 } else { 0 }];
    if mask {
        let key = [0x12, 0x34, 0x56, 0x78];
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
    } else {
        bytes.extend(payload);
    }
    bytes
}

fn cases() -> Vec<Case> {
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let request = format!("{key}{version}");
    let accept = format!("Sec-WebSocket-Accept: {}\r\n", accept_for(KEY));
    let deflate = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let plain = |first, payload: &[u8]| frame(first, false, payload);
    vec![
        Case {
            client: plain(0x82, b"x"),
            ..case(Rule::UnmaskedClientFrame, CLIENT)
        },
        server(Rule::MaskedServerFrame, &frame(0x82, true, b"x")),
        server(Rule::ReservedOpcode, &plain(0x83, b"x")),
        server(Rule::ReservedBits, &plain(0x91, b"x")),
        server(Rule::NonminimalLength, &[0x82, 126, 0, 1, b'x']),
        Case {
            closes: true,
            ..server(
                Rule::LengthTooLarge,
                &[&[0x82, 127][..], &[0xff; 20]].concat(),
            )
        },
        server(Rule::FragmentedControl, &plain(0x09, b"x")),
        server(
            Rule::OversizedControl,
            &[&[0x8a, 126, 0, 126][..], &[b'x'; 126]].concat(),
        ),
        server(Rule::UnexpectedContinuation, &plain(0x80, b"x")),
        server(
            Rule::ExpectedContinuation,
            &[plain(0x01, b"x"), plain(0x82, b"y")].concat(),
        ),
        Case {
            closes: true,
            ..server(Rule::InvalidCloseLength, &plain(0x88, &[3]))
        },
        Case {
            closes: true,
            ..server(Rule::InvalidCloseCode, &plain(0x88, &[3, 0xed]))
        },
        server(
            Rule::InvalidUtf8,
            &[plain(0x01, b"\xe2\x82"), plain(0x80, b"x\xff")].concat(),
        ),
        Case {
            request: format!("{request}{deflate}"),
            response: format!("{accept}{deflate}"),
            ..server(Rule::InvalidDeflate, &plain(0xc1, &[0x07, 1, 2]))
        },
        Case {
            closes: true,
            ..server(
                Rule::DataAfterClose,
                &[plain(0x88, &[3, 0xe8]), plain(0x81, b"x")].concat(),
            )
        },
        handshake(Rule::MissingKey, CLIENT, version, &accept),
        handshake(
            Rule::InvalidKey,
            CLIENT,
            &format!("Sec-WebSocket-Key: c2hvcnQ=\r\n{version}"),
            &format!("Sec-WebSocket-Accept: {}\r\n", accept_for("c2hvcnQ=")),
        ),
        handshake(
            Rule::InvalidVersion,
            CLIENT,
            &format!("{key}Sec-WebSocket-Version: 8\r\n"),
            &accept,
        ),
        handshake(Rule::MissingAccept, SERVER, &request, ""),
        handshake(
            Rule::WrongAccept,
            SERVER,
            &request,
            &format!("Sec-WebSocket-Accept: {}\r\n", accept_for("another")),
        ),
        handshake(
            Rule::UnofferedSubprotocol,
            SERVER,
            &format!("{request}Sec-WebSocket-Protocol: chat\r\n"),
            &format!("{accept}Sec-WebSocket-Protocol: mqtt\r\n"),
        ),
        handshake(
            Rule::UnofferedExtension,
            SERVER,
            &request,
            &format!("{accept}{deflate}"),
        ),
    ]
}

/// All that is allowed, as far as it is near to what is not.
fn correct() -> Case {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0];
    let conversation = |mask| {
        [
            frame(0x01, mask, b"\xe2\x82"),
            frame(0x89, mask, &[0xff; 125]),
            frame(0x00, mask, b""),
            frame(0x80, mask, b"\xac"),
            frame(0xc1, mask, &hello),
            frame(0x81, mask, b"plain"),
            // RFC 7692, section 7.2.3.2: refers to the message before.
            frame(0x42, mask, &[0xf2, 0]),
            frame(0x80, mask, &[0x11, 0, 0]),
            frame(0xc1, mask, &[0]),
            frame(0x82, mask, b"\xff"),
            frame(0x8a, mask, b""),
        ]
        .concat()
    };
    let deflate = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let some = case(Rule::DataAfterClose, SERVER);
    Case {
        name: "correct",
        request: format!("{}{deflate}Sec-WebSocket-Protocol: a, b\r\n", some.request),
        response: format!("{}{deflate}Sec-WebSocket-Protocol: b\r\n", some.response),
        client: conversation(true),
        server: conversation(false),
        ..some
    }
}

fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("an open connection");
    to.read_exact(&mut vec![0; bytes.len()])
        .expect("what the other end sent");
}

impl Case {
    fn play(&self, pair: &Pair) {
        let to = at(Pair::V4);
        let listener = pair.server.listen(to);
        let mut client = pair.client.connect(to).expect("a listening server");
        let (mut server, _) = listener.accept().expect("a client");
        let request = format!(
            "GET /{} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{}\r\n",
            self.name, self.request
        );
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{}\r\n",
            self.response
        );
        send(&mut client, &mut server, request.as_bytes());
        send(&mut server, &mut client, response.as_bytes());
        send(&mut client, &mut server, &self.client);
        send(&mut server, &mut client, &self.server);
        send(&mut client, &mut server, &frame(0x88, true, &[3, 0xe8]));
        if !self.closes {
            send(&mut server, &mut client, &frame(0x88, false, &[3, 0xe8]));
        }
    }
}

#[test]
fn each_rule_is_broken_once() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    // Neither inflates. Text that is small is copied with its header while a connection is young.
    let unseen = Rule::InvalidDeflate.as_str();
    let agents =
        ["whole", "headers"].map(|copy| Agent::run(&pair.server, &format!("-i s0 --copy {copy}")));
    let selected = "--event=handshake,frame,message,violation,close";
    let trace = trace(&pair.client, "c0", &["--payload", selected]);

    let cases = cases();
    let rules: Vec<_> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
    let broken: Vec<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(broken, rules, "a case for each rule");
    let correct = correct();
    for case in cases.iter().chain([&correct]) {
        case.play(&pair);
    }
    let connections = cases.len() + 1;
    eventually("trace has told all ends", Duration::from_secs(10), || {
        let ends = trace.stdout().matches("\"event\":\"close\"").count();
        if ends == connections {
            Ok(())
        } else {
            Err(format!("{ends} of {connections}"))
        }
    });
    trace.signal(Signal::SIGINT);
    let (_, told) = trace.wait(Duration::from_secs(10));
    let told = events(&told);

    // By connection: what it was for, and what was found.
    let mut paths = BTreeMap::new();
    let mut inflated = Vec::new();
    let mut previews = Vec::new();
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in &told {
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("handshake") => {
                paths.insert(word("conn"), word("path"));
            }
            Some("violation") => {
                assert_eq!(event["count"], 1, "{event}");
                let violation = (word("dir"), word("rule"));
                found.entry(word("conn")).or_default().push(violation);
            }
            Some("message") if paths[&word("conn")] == "/correct" => {
                inflated.extend(event["inflated_len"].as_u64());
            }
            Some("frame") if paths[&word("conn")] == "/correct" && event["rsv"] == 4 => {
                previews.push(word("payload"));
            }
            _ => {}
        }
    }
    assert_eq!(inflated, [5, 5, 0, 5, 5, 0]);
    assert_eq!(previews[0], "Hello");
    let mut found: BTreeMap<_, _> = (found.into_iter())
        .map(|(conn, violations)| (paths[&conn].clone(), violations))
        .collect();
    for Case {
        name, direction, ..
    } in &cases
    {
        let expected = vec![((*direction).to_owned(), (*name).to_owned())];
        assert_eq!(found.remove(&format!("/{name}")), Some(expected), "{name}");
    }
    assert!(found.is_empty(), "{found:?}");

    for agent in &agents {
        must_have_counted(agent, &cases, unseen);
    }
}

/// Waits until the agent has counted each case once, but for the rule that it cannot see broken.
#[track_caller]
fn must_have_counted(agent: &Agent, cases: &[Case], unseen: &str) {
    let connections = cases.len() + 1;
    eventually("the agent has counted all", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        let count =
            |labels: &[(&str, &str)]| metrics.sum("websocket_protocol_violations_total", labels);
        let mut wrong = Vec::new();
        for Case {
            name, direction, ..
        } in cases
        {
            let path = format!("/{name}");
            let labels = [
                ("path", &path[..]),
                ("rule", *name),
                ("direction", *direction),
            ];
            let expected = u64::from(unseen != *name);
            if count(&labels) != expected {
                wrong.push(*name);
            }
        }
        let closed = metrics.sum("websocket_connections_closed_total", &[]);
        let seen = (cases.len() - 1) as u64;
        if wrong.is_empty() && count(&[]) == seen && closed == connections as u64 {
            Ok(())
        } else {
            let all = metrics.of("websocket_protocol_violations_total");
            let all: Vec<_> = all.filter(|sample| sample.value > 0.0).collect();
            Err(format!("{wrong:?}; {closed} closed; {all:#?}"))
        }
    });
    let labels = [("path", "/correct"), ("subprotocol", "b")];
    assert_eq!(
        agent.metrics().sum("websocket_handshakes_total", &labels),
        1
    );
    assert_eq!(agent.losses(), "");
}
