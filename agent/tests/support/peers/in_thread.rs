//! A peer in Rust, on a thread of this process.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, LocalSet},
    time::timeout,
};

use super::{Job, Part, Report, Role, Running};
use crate::support::netns::Netns;

/// An implementation in Rust.
pub trait Peer {
    /// Takes part in a conversation as the client.
    async fn client(stream: TcpStream, path: &str, part: &Part) -> Report;

    /// Takes part in one of `parts` as the server: its path, and what came of it.
    async fn server(stream: TcpStream, parts: &BTreeMap<String, Part>) -> (String, Report);
}

/// Starts it inside a namespace.
#[track_caller]
pub fn start<P: Peer + 'static>(ns: &Netns, job: &Job) -> Running {
    let job = job.clone();
    let (ready, readiness) = std::sync::mpsc::channel();
    let thread = ns.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let work = async move {
            let parts = Rc::new(job.conversations);
            let mut conversations = JoinSet::new();
            match job.role {
                Role::Server => {
                    let listener = TcpListener::bind((job.host, job.port));
                    let listener = listener.await.expect("a free port");
                    ready.send(()).expect("the test is waiting");
                    for _ in 0..parts.len() {
                        let stream = listener.accept().await.expect("a client").0;
                        stream.set_nodelay(true).expect("a socket option");
                        let parts = Rc::clone(&parts);
                        conversations.spawn_local(async move { P::server(stream, &parts).await });
                    }
                }
                Role::Client => {
                    ready.send(()).expect("the test is waiting");
                    for (path, part) in parts.iter() {
                        let (path, part) = (path.clone(), part.clone());
                        conversations.spawn_local(async move {
                            let stream = TcpStream::connect(part.to).await.expect("a server");
                            stream.set_nodelay(true).expect("a socket option");
                            let report = P::client(stream, &path, &part).await;
                            (path, report)
                        });
                    }
                }
            }
            conversations.join_all().await.into_iter().collect()
        };
        let work = async {
            timeout(
                Duration::from_secs(job.seconds),
                LocalSet::new().run_until(work),
            )
            .await
            .expect("conversations that come to their end")
        };
        runtime.expect("a runtime").block_on(work)
    });
    readiness
        .recv_timeout(Duration::from_secs(10))
        .expect("a peer that is ready");
    Running::Thread(thread)
}

/// A second handle of a socket, for when the implementation has taken the first. It has to go
/// before the socket is closed.
pub fn handle(stream: &TcpStream) -> OwnedFd {
    stream.as_fd().try_clone_to_owned().expect("a descriptor")
}

/// Has the kernel answer with a RST when the socket is closed.
pub fn reset_on_close(handle: &OwnedFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(handle, nix::sys::socket::sockopt::Linger, &linger)
        .expect("a socket option");
}
