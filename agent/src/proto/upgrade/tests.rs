use super::*;

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn request(head: &str) -> Box<Request> {
    match parse_request(head.as_bytes()).unwrap().asks {
        Asks::Upgrade(request) => request,
        other => panic!("{other:?}"),
    }
}

fn rules(faults: &[Fault]) -> Vec<Rule> {
    faults.iter().map(|fault| fault.rule).collect()
}

#[test]
fn the_example_of_the_rfc() {
    // RFC 6455, section 1.2 and 1.3.
    let request = request(REQUEST);
    assert_eq!(request.path, "/chat");
    assert_eq!(request.host.as_deref(), Some("server.example.com"));
    assert_eq!(request.origin.as_deref(), Some("http://example.com"));
    assert_eq!(request.subprotocols, ["chat", "superchat"]);
    assert!(request.faults.is_empty());
    let response = parse_response(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
    )
    .unwrap();
    assert!(response.upgrades);
    assert!(response.faults(Some(&request)).is_empty());
    assert_eq!(
        response.extensions(Some(&request)),
        Extensions::Agreed {
            deflate: None,
            others: false
        }
    );
    assert_eq!(response.extensions(None), Extensions::Unknown);
}

#[test]
fn what_is_wrong_with_a_request() {
    for (from, to, expected) in [
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "",
            Rule::MissingKey,
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSA=",
            Rule::InvalidKey,
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ",
            Rule::InvalidKey,
        ),
        ("dGhlIHNhbXBsZSBub25jZQ==", "????", Rule::InvalidKey),
        (
            "Sec-WebSocket-Key: ",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-key: ",
            Rule::InvalidKey,
        ),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
            Rule::InvalidVersion,
        ),
        ("Version: 13", "Version: 8", Rule::InvalidVersion),
        ("Sec-WebSocket-Version: 13\r\n", "", Rule::InvalidVersion),
    ] {
        let request = request(&REQUEST.replace(from, to));
        assert_eq!(rules(&request.faults), [expected], "{from} -> {to}");
    }
}

#[test]
fn what_is_wrong_with_a_response() {
    let request = request(REQUEST);
    for (head, expected) in [
        ("", vec![Rule::MissingAccept]),
        ("Sec-WebSocket-Accept: x\r\n", vec![Rule::WrongAccept]),
        (
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
            vec![Rule::WrongAccept],
        ),
        (
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: superchat\r\n",
            vec![Rule::UnofferedSubprotocol],
        ),
        (
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n",
            vec![Rule::UnofferedSubprotocol],
        ),
        (
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: mux\r\n",
            vec![Rule::UnofferedExtension, Rule::UnofferedExtension],
        ),
    ] {
        let head = format!("HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\n{head}\r\n");
        let response = parse_response(head.as_bytes()).unwrap();
        assert_eq!(rules(&response.faults(Some(&request))), expected, "{head}");
    }
}

#[test]
fn an_attempt_is_a_get_that_names_websocket() {
    for (head, attempt) in [
        ("GET / HTTP/1.1\r\nupgrade: h2c, WebSocket\r\n\r\n", true),
        (
            "GET http://a/b HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            true,
        ),
        ("POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nUpgrade: websockets\r\n\r\n", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
    ] {
        let asks = parse_request(head.as_bytes()).unwrap().asks;
        assert_eq!(matches!(asks, Asks::Upgrade(_)), attempt, "{head}");
    }
}

#[test]
fn bodies() {
    let length = |head: &str, asked: Option<&Asks>| {
        let head = format!("HTTP/1.1 {head}\r\n\r\n");
        match parse_response(head.as_bytes()).unwrap().body(asked) {
            Body::Length(length) => Some(length),
            Body::Chunked(_) => None,
            Body::UntilClose => Some(u64::MAX),
        }
    };
    assert_eq!(length("200 OK\r\nContent-Length: 7", None), Some(7));
    assert_eq!(
        length("200 OK\r\nContent-Length: 7", Some(&Asks::Head)),
        Some(0)
    );
    assert_eq!(length("304 x\r\nContent-Length: 7", None), Some(0));
    assert_eq!(length("204 x", None), Some(0));
    assert_eq!(length("100 Continue", None), Some(0));
    assert_eq!(length("200 OK", None), Some(u64::MAX));
    assert_eq!(length("200 OK", Some(&Asks::Connect)), Some(0));
    assert_eq!(
        length(
            "200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: gzip, Chunked",
            None
        ),
        None
    );
    let head = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    assert!(matches!(parse_request(head).unwrap().body, Body::Length(3)));
}

#[test]
fn heads_have_limits() {
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(129));
    assert_eq!(
        parse_request(many.as_bytes()).unwrap_err(),
        HeadError::TooManyHeaders
    );
    assert_eq!(
        parse_request(b"GET / HTTP\r\n\r\n").unwrap_err(),
        HeadError::Malformed
    );
    let long = REQUEST.replace("/chat", &"x".repeat(9000));
    assert_eq!(request(&long).path.len(), MAX_VALUE);
}

#[test]
fn a_target_that_is_no_text_is_a_target() {
    let head = b"GET /a\xff\xfeb HTTP/1.1\r\nUpgrade: websocket\r\nHost: x\xff\r\n\r\n";
    let Asks::Upgrade(request) = parse_request(head).unwrap().asks else {
        panic!("it asks for an upgrade");
    };
    assert_eq!(request.path, "/a\u{fffd}\u{fffd}b");
    assert_eq!(request.host.as_deref(), Some("x\u{fffd}"));
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let head = [
        &b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nHost: \xff\xfe\r\n\r\n"[..],
        b"",
    ]
    .concat();
    let Asks::Upgrade(request) = parse_request(&head).unwrap().asks else {
        panic!()
    };
    assert_eq!(request.host.as_deref(), Some("\u{fffd}\u{fffd}"));
}
