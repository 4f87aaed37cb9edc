//! The fuzzer against implementations that echo, as the Autobahn test suite is run: what they
//! answer is held against what is said of it, frame by frame.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, stream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite::Message};
use wstap::proto::upgrade::accept_for;

use super::{
    AT_ONCE, KEY, PATIENCE, at_once,
    fuzzer::{Conversation, converse, head},
    prepare, told, trace,
};
use crate::{
    Pair, at,
    cases::{
        run::{self, Run},
        table::Table,
    },
    support::{
        agent::Process,
        eventually,
        machine::{self, turn},
    },
};

/// Where the implementation's server listens, or the fuzzer's.
const SERVER: [&str; 2] = ["10.77.0.2:9001", "10.77.0.2:9002"];

/// The fuzzer is the client.
fn ask(run: &Run, to: SocketAddr) -> Conversation {
    let stream = TcpStream::connect(to).expect("a listening server");
    prepare(&stream);
    (&stream)
        .write_all(run.request(KEY).as_bytes())
        .expect("an open connection");
    let head = head(&stream).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let agreed = head.contains("sec-websocket-extensions: permessage-deflate");
    assert_eq!(agreed, run.case.extensions.is_some(), "{head}");
    converse(run, &stream)
}

/// The fuzzer is the server: which run it is says the path.
fn answer(runs: &BTreeMap<String, Run>, mut stream: &TcpStream) -> (String, Conversation) {
    prepare(stream);
    let head = head(stream);
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    });
    let run = runs.get(&path).expect("a path of ours");
    let response = run.response(&accept_for(key.expect("a key")));
    stream
        .write_all(response.as_bytes())
        .expect("an open connection");
    let conversation = converse(run, stream);
    (path, conversation)
}

/// Takes the next client, unless none comes any more.
fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        // Another thread may have been told of the same client.
        let mut readable = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("some seconds");
        let clients = poll(&mut readable, patience).expect("a socket to wait for");
        assert_ne!(clients, 0, "no client has come for {PATIENCE:?}");
    }
}

/// Runs all against an implementation, which is started by `server` for as many connections, and
/// by `client` for these runs.
fn against<S, C>(
    title: &str,
    runs: Vec<Run>,
    server: impl FnOnce(&Pair, usize) -> S,
    client: impl FnOnce(&Pair, &[Run]) -> C,
) {
    let pair = Pair::new();
    let trace = trace(&pair);
    let (asked, answered): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.sender == 0);

    let server = server(&pair, asked.len());
    let work = asked.clone();
    let conversations = at_once(&pair.client, asked.len(), move |_, n| {
        (work[n].path(), ask(&work[n], at(SERVER[0])))
    });
    let mut conversations: BTreeMap<_, _> = conversations.wait().into_iter().collect();
    drop(server);

    let listener = pair.server.listen(at(SERVER[1]));
    listener.set_nonblocking(true).expect("a socket option");
    let work: BTreeMap<_, _> = (answered.iter())
        .map(|run| (run.path(), run.clone()))
        .collect();
    let more = at_once(&pair.server, answered.len(), move |_, _| {
        answer(&work, &accept(&listener))
    });
    let client = client(&pair, &answered);
    conversations.extend(more.wait());
    drop(client);

    let said = told(trace);
    let mut table = Table::default();
    let (mut answers, mut parts) = (BTreeMap::<_, u64>::new(), 0);
    for run in asked.iter().chain(&answered) {
        let conversation = &conversations[&run.path()];
        *answers.entry(conversation.answer()).or_default() += 1;
        let Some(said) = said.get(&run.path()) else {
            table.add(run, &run.expected(), &[]);
            continue;
        };
        let comparison = conversation.compare(run, said);
        parts += u64::from(!comparison.whole);
        table.add(run, &comparison.expected, &comparison.said);
    }
    table.settle(&format!("Against {title}, {parts} cut short by it:"));
    for (answer, times) in answers {
        println!("{times:>5} times it {answer}");
    }
    assert_eq!(said.len(), asked.len() + answered.len(), "connections");
}

/// Sends back what comes.
async fn echo(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            break;
        }
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work);
}

/// It knows no compression.
#[test]
fn every_case_against_tungstenite() {
    let Some(_turn) = turn() else { return };
    let mut runs = run::all();
    runs.retain(|run| run.case.extensions.is_none());
    let server = |pair: &Pair, count: usize| {
        let listener = pair.server.listen(at(SERVER[0]));
        pair.server.spawn(move || {
            block_on(async {
                listener.set_nonblocking(true).expect("a socket option");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let connections = stream::unfold(listener, |listener| async {
                    let (stream, _) = listener.accept().await.expect("a client");
                    Some((stream, listener))
                });
                let connections = connections.take(count);
                let serve =
                    |stream| async { echo(accept_async(stream).await.expect("WebSocket")).await };
                connections.for_each_concurrent(AT_ONCE, serve).await;
            });
        })
    };
    let client = |pair: &Pair, runs: &[Run]| {
        let paths: Vec<_> = runs.iter().map(Run::path).collect();
        pair.client.spawn(move || {
            block_on(async {
                let ask = |path| async move {
                    let to = SERVER[1];
                    let stream = tokio::net::TcpStream::connect(to).await.expect("a server");
                    let url = format!("ws://{to}{path}");
                    echo(client_async(url, stream).await.expect("WebSocket").0).await;
                };
                stream::iter(paths).for_each_concurrent(AT_ONCE, ask).await;
            });
        })
    };
    against("tokio-tungstenite", runs, server, client);
}

#[test]
fn every_case_against_python_websockets() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("paths");
    let command = |ns: &crate::Netns, role: &str, address: &str| {
        let address = at(address);
        let mut command = ns.command(machine::python());
        command.arg(machine::script("echo.py")).arg(role);
        command.arg(address.ip().to_string());
        command.arg(address.port().to_string());
        command
    };
    let server = |pair: &Pair, _: usize| {
        let mut server = Process::spawn(command(&pair.server, "server", SERVER[0]));
        eventually("the Python server listens", Duration::from_secs(15), || {
            server.must_live();
            let ready = server.stdout().starts_with("ready");
            ready.then_some(()).ok_or_else(|| server.stderr())
        });
        server
    };
    let client = |pair: &Pair, runs: &[Run]| {
        let lines = runs.iter().map(|run| {
            let deflate = run.case.extensions.as_ref().map_or("", |_| " deflate");
            format!("{}{deflate}\n", run.path())
        });
        std::fs::write(&file, lines.collect::<String>()).expect("a writable folder");
        let mut command = command(&pair.client, "client", SERVER[1]);
        command.arg(&file);
        Process::spawn(command)
    };
    against("Python `websockets`", run::all(), server, client);
}
