//! A browser as client: what a page and its server saw is what the events say.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Pair, at,
    support::{
        browser::{Browser, Seen, Site},
        machine::turn,
        tally::Tally,
        trace::{Connection, Trace},
    },
};

/// The frames of a page's WebSocket, by its server's count, and its end.
fn expected(seen: &Seen, ending: &str) -> Tally {
    Tally {
        client_to_server: seen.report.received.clone(),
        server_to_client: seen.report.sent.clone(),
        closed: [(ending.to_owned(), 1)].into(),
    }
}

/// The handshake is a browser's.
#[track_caller]
fn must_be_of_a_page(connection: &Connection) {
    let handshake = connection.handshake();
    assert_eq!(handshake["outcome"], "accepted");
    assert_eq!(handshake["path"], "/socket");
    assert_eq!(handshake["origin"], format!("http://{}", Pair::V4));
    let agent = handshake["user_agent"].as_str().unwrap_or_default();
    assert!(agent.contains("Chrome/"), "{agent}");
}

#[test]
fn chromium_with_compression() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let trace = Trace::start(&pair.client, 1, "--payload");
    let site = Site::serve(&pair.server, at(Pair::V4), true);
    let _browser = Browser::open(&pair.client, &format!("http://{}/?whole", Pair::V4));
    let seen = site.seen();
    let connections = trace.connections(1);
    let [connection] = &connections[..] else {
        panic!("{connections:#?}");
    };
    must_be_of_a_page(connection);

    // The page, its server and the events agree.
    let expected = expected(&seen, "clean 3001 client");
    assert_eq!(
        connection.tally(),
        expected,
        "\n{expected}\n{}",
        connection.tally()
    );
    let page = &seen.page;
    assert_eq!(
        (&page["code"], &page["reason"]),
        (&3001.into(), &"the page is done".into())
    );
    assert_eq!(
        (&page["wasClean"], &page["lost"]),
        (&true.into(), &0.into())
    );
    assert_eq!(connection.close()["reason"], page["reason"]);
    assert_eq!(connection.handshake()["extensions"], page["extensions"]);
    let compressed = page["extensions"].as_str().unwrap_or_default();
    assert!(compressed.starts_with("permessage-deflate"), "{compressed}");
    for (direction, said) in [
        ("client_to_server", "sent"),
        ("server_to_client", "received"),
    ] {
        let messages = || {
            connection
                .of("message")
                .filter(|message| message["dir"] == direction)
        };
        for kind in ["text", "binary"] {
            let n = messages().filter(|message| message["type"] == kind).count();
            assert_eq!(page[said][kind], n, "{direction} {kind}");
        }
        // One that was not compressed is as long as it is on the wire.
        let sizes = messages().map(|message| {
            let len = message.get("inflated_len").unwrap_or(&message["len"]);
            len.as_u64().expect("a number")
        });
        assert_eq!(sizes.collect::<Vec<_>>(), seen.sizes, "{direction}");
        assert!(messages().any(|message| message["inflated_len"] == 200_000));
    }
    let text = |frame: &&Value| frame["payload"] == "grüße, 世界";
    assert_eq!(
        connection.of("frame").filter(text).count(),
        2,
        "{connection:#?}"
    );
}

#[test]
fn chromium_that_goes_without_a_word() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let trace = Trace::start(&pair.server, 1, "");
    // Another page in the same tab, a browser that is asked to end, and one that is killed.
    let ways = [
        ("leave", None),
        ("stay", Some(Signal::SIGTERM)),
        ("stay", Some(Signal::SIGKILL)),
    ];
    let seen = ways.map(|(page, signal)| {
        let site = Site::serve(&pair.server, at(Pair::V4), false);
        let browser = Browser::open(&pair.client, &format!("http://{}/?{page}", Pair::V4));
        if let Some(signal) = signal {
            site.must_say("seen");
            browser.signal(signal);
        }
        site.seen()
    });
    let connections = trace.connections(ways.len());
    assert_eq!(connections.len(), ways.len(), "{connections:#?}");
    for ((way, seen), connection) in ways.iter().zip(&seen).zip(&connections) {
        must_be_of_a_page(connection);
        let codes: Vec<_> = seen.report.closed.keys().collect();
        let ending = match (way.1, &codes[..]) {
            (Some(Signal::SIGKILL), [1006]) => "fin 1006 client".to_owned(),
            (None | Some(Signal::SIGTERM), [code]) => format!("clean {code} client"),
            _ => panic!("{way:?} ended with {codes:?}"),
        };
        let expected = expected(seen, &ending);
        assert_eq!(connection.tally(), expected, "{way:?}");
    }
}
