//! Connections that cannot be held on to: a bound on their number, and a time by which each has to
//! get on.
//!
//! The server's own limits do not help: without a timer it waits for the end of a request's head for
//! ever, and nothing limits how slowly a response is taken.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// From the first byte of a request to the last byte of its response.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// Between requests, and before the first: longer than the scrape intervals in common use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A listener that accepts no more connections than it was told.
#[derive(Debug)]
pub(super) struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Limited {
    pub(super) fn new(listener: TcpListener, connections: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(connections)),
        }
    }
}

impl Listener for Limited {
    type Io = Hurried<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed; without a permit there would only be no limit.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Hurried::new(stream, place), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A stream that fails when its peer takes too long.
#[derive(Debug)]
pub(super) struct Hurried<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    phase: Phase,
    /// Held for as long as the connection lives.
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nothing of a request was read.
    Idle,
    /// A request is being read or answered.
    Request,
    /// Some of the response was written.
    Response,
}

impl<S> Hurried<S> {
    fn new(stream: S, place: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            stream,
            // The first request comes at once from whoever means to send one.
            deadline: Box::pin(tokio::time::sleep(EXCHANGE_TIMEOUT)),
            phase: Phase::Request,
            _place: place,
        }
    }

    fn enter(&mut self, phase: Phase, timeout: Duration) {
        self.phase = phase;
        self.deadline.as_mut().reset(Instant::now() + timeout);
    }

    /// Fails where the time is up; else sees to it that the task is woken when it is.
    fn check(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hurried<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.check(context),
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() > before && self.phase == Phase::Idle {
                    self.enter(Phase::Request, EXCHANGE_TIMEOUT);
                }
                // A peer that drips bytes always has some ready: the deadline holds for it too.
                match self.check(context) {
                    Poll::Pending => Poll::Ready(Ok(())),
                    up => up,
                }
            }
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hurried<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.check(context).map_ok(|()| 0),
            Poll::Ready(Ok(written)) => self.wrote(context, written),
            failed => failed,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
            Poll::Pending => self.check(context).map_ok(|()| 0),
            Poll::Ready(Ok(written)) => self.wrote(context, written),
            failed => failed,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        // The server flushes once all of a response is written.
        if self.phase == Phase::Response {
            self.enter(Phase::Idle, IDLE_TIMEOUT);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S> Hurried<S> {
    fn wrote(&mut self, context: &mut Context<'_>, written: usize) -> Poll<io::Result<usize>> {
        if self.phase == Phase::Idle {
            self.enter(Phase::Response, EXCHANGE_TIMEOUT);
        }
        self.phase = Phase::Response;
        match self.check(context) {
            Poll::Pending => Poll::Ready(Ok(written)),
            Poll::Ready(up) => Poll::Ready(up.map(|()| 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    /// Both ends of a connection whose deadline is `timeout` from now.
    fn pair(timeout: Duration) -> (Hurried<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(8);
        let mut hurried = Hurried::new(ours, None);
        hurried.enter(Phase::Request, timeout);
        (hurried, theirs)
    }

    fn timed_out<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn a_head_that_never_ends_runs_out_of_time() {
        runtime().block_on(async {
            let (mut ours, mut theirs) = pair(Duration::from_millis(50));
            let drip = async {
                while theirs.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let head = async {
                let mut head = Vec::new();
                let result = ours.read_to_end(&mut head).await;
                drop(ours);
                result
            };
            let ((), result) = tokio::join!(drip, head);
            assert!(timed_out(result));
        });
    }

    #[test]
    fn a_response_that_nobody_takes_runs_out_of_time() {
        runtime().block_on(async {
            let (mut ours, _theirs) = pair(Duration::from_millis(50));
            assert!(timed_out(ours.write_all(&[0; 100]).await));
        });
    }

    #[test]
    fn the_clock_starts_again_with_each_request() {
        runtime().block_on(async {
            let (mut ours, mut theirs) = pair(Duration::from_millis(50));
            theirs.write_all(b"GET").await.unwrap();
            let mut head = [0; 3];
            ours.read_exact(&mut head).await.unwrap();
            ours.write_all(b"ok").await.unwrap();
            ours.flush().await.unwrap();
            assert_eq!(ours.phase, Phase::Idle);
            tokio::time::sleep(Duration::from_millis(60)).await;
            theirs.write_all(b"GET").await.unwrap();
            ours.read_exact(&mut head).await.unwrap();
            assert_eq!(ours.phase, Phase::Request);
        });
    }
}
