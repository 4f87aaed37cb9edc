//! `fastwebsockets`, over `hyper`'s HTTP. It shows frames, and says which it wants to have sent.

use std::{cell::RefCell, collections::BTreeMap, future::pending, os::fd::OwnedFd};

use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError, handshake, upgrade};
use http_body_util::Empty;
use hyper::{Request, body::Bytes, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc, watch},
};

use super::{
    Close, Message, Part, Report, Step, hex,
    in_thread::{Peer, handle, reset_on_close},
};

/// See the module.
pub struct FastWebSockets;

impl Peer for FastWebSockets {
    async fn client(stream: TcpStream, path: &str, part: &Part) -> Report {
        let handle = handle(&stream);
        let request = Request::get(path)
            .header("Host", part.to.to_string())
            .header("Upgrade", "websocket")
            .header("Connection", "upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let (socket, response) = handshake::client(&TokioExecutor::new(), request, stream)
            .await
            .expect("a handshake");
        let agreed = response.headers().get("sec-websocket-extensions");
        let agreed = agreed.map_or("", |value| value.to_str().expect("a header of ASCII"));
        let report = converse(socket, handle, &part.steps).await;
        Report {
            extensions: Some(agreed.to_owned()),
            ..report
        }
    }

    async fn server(stream: TcpStream, parts: &BTreeMap<String, Part>) -> (String, Report) {
        let handle = handle(&stream);
        let (upgrading, mut upgrades) = mpsc::unbounded_channel();
        let service = service_fn(move |mut request| {
            let upgrading = upgrading.clone();
            async move {
                let (response, socket) = upgrade::upgrade(&mut request)?;
                let path = request.uri().path().to_owned();
                upgrading.send((path, socket)).expect("someone waits");
                Ok::<_, WebSocketError>(response)
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let http = http.serve_connection(TokioIo::new(stream), service);
        http.with_upgrades().await.expect("a request");
        let (path, socket) = upgrades.recv().await.expect("a handshake");
        let socket = socket.await.expect("a handshake");
        let report = converse(socket, handle, &parts[&path].steps).await;
        (path, report)
    }
}

async fn converse(socket: WebSocket<TokioIo<Upgraded>>, handle: OwnedFd, steps: &[Step]) -> Report {
    let (mut read, write) = socket.split(tokio::io::split);
    let write = Mutex::new(write);
    let log = RefCell::new(Report::default());
    let (arrived, mut arrivals) = watch::channel(0);
    let send = async {
        for step in steps {
            let frame = match step {
                Step::Frame {
                    opcode,
                    fin,
                    payload,
                } => Frame::new(*fin, bits(opcode), None, payload.clone().into()),
                Step::Close { code: None, .. } => Frame::close_raw(Payload::Borrowed(b"")),
                Step::Close {
                    code: Some(code),
                    reason,
                } => Frame::close(*code, reason.as_bytes()),
                Step::Await { messages } => {
                    let enough = arrivals.wait_for(|count| count >= messages).await;
                    enough.expect("an open connection");
                    continue;
                }
                Step::Drop => return,
                Step::Reset => return reset_on_close(&handle),
            };
            let mut write = write.lock().await;
            log.borrow_mut().sent.push(noted(&frame));
            write.write_frame(frame).await.expect("an open connection");
        }
        // The connection goes on until it is closed.
        pending::<()>().await;
    };
    let receive = async {
        let mut message: Option<Message> = None;
        let mut obliged = async |frame: Frame<'static>| {
            let mut write = write.lock().await;
            if frame.opcode == OpCode::Pong {
                // The ping that it answers is not shown.
                let ping = super::Frame {
                    opcode: "ping".to_owned(),
                    ..noted(&frame)
                };
                log.borrow_mut().received.push(ping);
            }
            if write.is_closed() {
                return Ok(());
            }
            log.borrow_mut().sent.push(noted(&frame));
            write.write_frame(frame).await
        };
        while let Ok(frame) = read.read_frame(&mut obliged).await {
            let mut log = log.borrow_mut();
            log.received.push(noted(&frame));
            match frame.opcode {
                OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                    let message = message.get_or_insert_with(|| Message {
                        kind: name(frame.opcode).to_owned(),
                        len: 0,
                    });
                    message.len += frame.payload.len() as u64;
                }
                OpCode::Close => {
                    let (code, reason) = match frame.payload.split_first_chunk() {
                        Some((code, reason)) => (u16::from_be_bytes(*code), reason),
                        None => (1005, &[][..]),
                    };
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    log.close = Close { code, reason };
                    return;
                }
                OpCode::Ping | OpCode::Pong => continue,
            }
            if frame.fin {
                log.messages.extend(message.take());
                arrived.send_modify(|count| *count += 1);
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
    log.into_inner()
}

fn noted(frame: &Frame<'_>) -> super::Frame {
    let control = matches!(frame.opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
    super::Frame {
        opcode: name(frame.opcode).to_owned(),
        fin: frame.fin,
        // One with a reserved bit is an error.
        rsv1: false,
        len: frame.payload.len() as u64,
        payload: control.then(|| hex(&frame.payload)),
    }
}

const NAMES: [(OpCode, &str); 6] = [
    (OpCode::Continuation, "continuation"),
    (OpCode::Text, "text"),
    (OpCode::Binary, "binary"),
    (OpCode::Close, "close"),
    (OpCode::Ping, "ping"),
    (OpCode::Pong, "pong"),
];

fn name(opcode: OpCode) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == opcode);
    known.expect("a known opcode").1
}

fn bits(name: &str) -> OpCode {
    let known = NAMES.iter().find(|(_, known)| *known == name);
    known.expect("a known opcode").0
}
