//! `tokio-tungstenite`. It shows messages; a [`Tap`] below it shows frames.

use std::{
    collections::BTreeMap,
    future::pending,
    os::fd::OwnedFd,
    sync::{Arc, PoisonError},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        self, Utf8Bytes,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::{
    Close, Message, Part, Report, Step,
    in_thread::{Peer, handle, reset_on_close},
};
use crate::support::tap::{Shared, Tap};

/// See the module.
pub struct Tungstenite;

impl Peer for Tungstenite {
    async fn client(stream: TcpStream, path: &str, part: &Part) -> Report {
        let (handle, log) = (handle(&stream), Shared::default());
        let tap = Tap::new(stream, Arc::clone(&log));
        let (socket, response) = client_async(format!("ws://{}{path}", part.to), tap)
            .await
            .expect("a handshake");
        let agreed = response.headers().get("sec-websocket-extensions");
        let agreed = agreed.map_or("", |value| value.to_str().expect("a header of ASCII"));
        let report = converse(socket, &log, handle, &part.steps).await;
        Report {
            extensions: Some(agreed.to_owned()),
            ..report
        }
    }

    async fn server(stream: TcpStream, parts: &BTreeMap<String, Part>) -> (String, Report) {
        let (handle, log) = (handle(&stream), Shared::default());
        let tap = Tap::new(stream, Arc::clone(&log));
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the callback's type is not ours")]
        let callback = |request: &Request, response: Response| -> Result<_, ErrorResponse> {
            request.uri().path().clone_into(&mut path);
            Ok(response)
        };
        let socket = accept_hdr_async(tap, callback).await.expect("a handshake");
        let report = converse(socket, &log, handle, &parts[&path].steps).await;
        (path, report)
    }
}

async fn converse(
    socket: WebSocketStream<Tap<TcpStream, Report>>,
    log: &Shared<Report>,
    handle: OwnedFd,
    steps: &[Step],
) -> Report {
    let (mut sink, mut source) = socket.split();
    let (arrived, mut arrivals) = watch::channel(0);
    let (mut messages, mut close) = (Vec::new(), Close::default());
    let send = async {
        for step in steps {
            let message = match step {
                Step::Frame {
                    opcode,
                    fin,
                    payload,
                } => tungstenite::Message::Frame(frame(opcode, *fin, payload.clone())),
                Step::Close { code, reason } => {
                    tungstenite::Message::Close(code.map(|code| CloseFrame {
                        code: code.into(),
                        reason: Utf8Bytes::from_static(reason),
                    }))
                }
                Step::Await { messages } => {
                    let enough = arrivals.wait_for(|count| count >= messages).await;
                    enough.expect("an open connection");
                    continue;
                }
                Step::Drop => return,
                Step::Reset => return reset_on_close(&handle),
            };
            sink.send(message).await.expect("an open connection");
        }
        // The connection goes on until it is closed.
        pending::<()>().await;
    };
    let receive = async {
        while let Some(Ok(message)) = source.next().await {
            let (kind, len) = match &message {
                tungstenite::Message::Text(text) => ("text", text.len()),
                tungstenite::Message::Binary(data) => ("binary", data.len()),
                tungstenite::Message::Close(frame) => {
                    let frame = frame.as_ref();
                    close = Close {
                        code: frame.map_or(1005, |frame| frame.code.into()),
                        reason: frame.map_or(String::new(), |frame| frame.reason.to_string()),
                    };
                    continue;
                }
                _ => continue,
            };
            messages.push(Message {
                kind: kind.to_owned(),
                len: len as u64,
            });
            arrived.send_modify(|count| *count += 1);
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
    let log = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Report {
        messages,
        close,
        ..log
    }
}

fn frame(opcode: &str, fin: bool, payload: Vec<u8>) -> Frame {
    let data = match opcode {
        "ping" => return Frame::ping(payload),
        "pong" => return Frame::pong(payload),
        "text" => Data::Text,
        "binary" => Data::Binary,
        _ => Data::Continue,
    };
    Frame::message(payload, OpCode::Data(data), fin)
}
