//! The HTTP server of `wstap run`: `/metrics`, `/healthz`, `/readyz`, `/connections` and a page that
//! links to them.
//!
//! It only reads. Whoever connects is not trusted: connections are few, and each has to get on with
//! it (see `connection.rs`).

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    proto::time::Timestamp,
    sink::metrics::{Metrics, process_metrics},
};

mod connection;
mod readiness;

pub use readiness::{READER_PATIENCE, Readiness};

/// Connections at a time; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;

/// How long requests may take that are under way at the shutdown.
const DRAIN: Duration = Duration::from_millis(500);

/// The text format's content type, as Prometheus asks for it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Whether `/connections` is served: it names peers and paths.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionsEndpoint {
    /// On a loopback listener only.
    #[default]
    Auto,
    /// On any.
    On,
    /// On none.
    Off,
}

impl ConnectionsEndpoint {
    fn served_on(self, listener: SocketAddr) -> bool {
        match self {
            Self::Auto => listener.ip().to_canonical().is_loopback(),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// What the server has to tell.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// For `/metrics` and `/connections`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// Whether `/connections` is served.
    pub connections: ConnectionsEndpoint,
}

/// Serves until `shutdown` is ready, and then for a moment those requests that are under way.
///
/// # Errors
///
/// The listener has no address.
pub async fn serve(
    listener: TcpListener,
    state: ServerState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let connections = state.connections.served_on(listener.local_addr()?);
    let listener = connection::Limited::new(listener, MAX_CONNECTIONS);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(state, connections))
        .with_graceful_shutdown(async {
            // A sender that is gone means the same as a message.
            let _ = stopped.await;
        })
        .into_future();
    let drained = async {
        shutdown.await;
        drop(stop);
        tokio::time::sleep(DRAIN).await;
        Ok(())
    };
    tokio::select! {
        result = server => result,
        result = drained => result,
    }
}

fn router(state: ServerState, connections: bool) -> Router {
    let router = Router::new()
        .route("/", get(move || async move { index(connections) }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { plain(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(readyz));
    let router = if connections {
        router.route("/connections", get(live_connections))
    } else {
        router.route("/connections", get(|| async { hidden_connections() }))
    };
    router.fallback(not_found).with_state(state)
}

async fn metrics(State(state): State<ServerState>) -> Response {
    let text = blocking(move || state.metrics.expose(now()) + &process_metrics()).await;
    respond(TEXT_FORMAT, text)
}

async fn live_connections(State(state): State<ServerState>) -> Response {
    let text = blocking(move || state.metrics.connections_json(now())).await;
    respond(JSON, text)
}

async fn readyz(State(state): State<ServerState>) -> Response {
    let (status, mut text) = match state.readiness.check() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    };
    if let Some(detail) = state.readiness.detail() {
        text.push_str(&detail);
        text.push('\n');
    }
    plain(status, text)
}

fn hidden_connections() -> Response {
    plain(
        StatusCode::NOT_FOUND,
        "live connections name peers and paths: they are served on loopback listeners, \
         or anywhere with --connections-endpoint on\n",
    )
}

async fn not_found(uri: Uri) -> Response {
    let text = format!("there is nothing at {}; see /\n", uri.path());
    plain(StatusCode::NOT_FOUND, text)
}

fn index(connections: bool) -> Html<String> {
    let list = if connections {
        "<li><a href=\"/connections\">connections</a>: live WebSockets as JSON</li>\n"
    } else {
        ""
    };
    Html(format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\">\n\
         <head><meta charset=\"utf-8\"><title>wstap</title></head>\n\
         <body>\n\
         <h1>wstap {version}</h1>\n\
         <p>WebSocket metrics of this machine.</p>\n\
         <ul>\n\
         <li><a href=\"/metrics\">metrics</a>: for Prometheus</li>\n\
         {list}\
         <li><a href=\"/readyz\">readyz</a>: is it watching?</li>\n\
         <li><a href=\"/healthz\">healthz</a>: is it alive?</li>\n\
         </ul>\n\
         </body>\n\
         </html>\n",
        version = env!("CARGO_PKG_VERSION"),
    ))
}

/// Renders on a thread that may take its time: the runtime has other connections to see to.
async fn blocking(render: impl FnOnce() -> String + Send + 'static) -> Option<String> {
    tokio::task::spawn_blocking(render).await.ok()
}

fn respond(content_type: &'static str, text: Option<String>) -> Response {
    match text {
        Some(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        None => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "rendering failed; the log of the agent says why\n",
        ),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, PLAIN)], text.into()).into_response()
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::default().saturating_add(since_epoch)
}

#[cfg(test)]
mod tests;
