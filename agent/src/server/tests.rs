//! The server over real sockets, spoken to byte by byte.

use super::*;
use crate::sink::metrics::MetricsConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

async fn start(bind: &str, connections: ConnectionsEndpoint) -> Running {
    let listener = TcpListener::bind(bind).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let readiness = Readiness::default();
    let state = ServerState {
        metrics: Arc::new(Metrics::new(&MetricsConfig::default())),
        readiness: readiness.clone(),
        connections,
    };
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));
    Running {
        address: ([127, 0, 0, 1], port).into(),
        readiness,
        stop,
        server,
    }
}

/// Status, head and body of the answer to one request on a connection of its own.
async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn serves_metrics_in_the_text_format() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let (status, head, body) = request(running.address, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("\nwstap_build_info{"));
    assert!(body.contains("\nprocess_resident_memory_bytes "));
    let (status, head, body) = request(running.address, "HEAD", "/metrics").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("\r\ncontent-length: "));
}

#[tokio::test]
async fn answers_what_it_is_asked() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    for (method, path, status, content_type, body) in [
        ("GET", "/healthz", 200, "text/plain; charset=utf-8", "ok\n"),
        (
            "GET",
            "/",
            200,
            "text/html; charset=utf-8",
            "<a href=\"/connections\">",
        ),
        ("GET", "/connections", 200, "application/json", "[\n]\n"),
        (
            "GET",
            "/nothing",
            404,
            "text/plain; charset=utf-8",
            "nothing at /nothing;",
        ),
        ("HEAD", "/healthz", 200, "text/plain; charset=utf-8", ""),
    ] {
        let (got, head, text) = request(running.address, method, path).await;
        assert_eq!(got, status, "{method} {path}");
        assert!(
            head.contains(&format!("content-type: {content_type}")),
            "{head}"
        );
        assert!(text.contains(body), "{text}");
    }
    let (status, head, _) = request(running.address, "POST", "/metrics").await;
    assert_eq!(status, 405);
    assert!(head.contains("\r\nallow: get,head"), "{head}");
}

#[tokio::test]
async fn is_ready_when_told_so() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let (status, _, body) = request(running.address, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body, "not ready: the programs are not attached yet\n");
    running.readiness.programs_attached();
    running.readiness.reader_alive();
    let (status, _, body) = request(running.address, "GET", "/readyz").await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));
    running.readiness.reader_stopped("the ring buffer is gone");
    let (status, _, body) = request(running.address, "GET", "/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (503, "not ready: the ring buffer is gone\n")
    );
}

#[tokio::test]
async fn peers_are_named_on_loopback_or_on_request() {
    for (bind, endpoint, served) in [
        ("127.0.0.1:0", ConnectionsEndpoint::Auto, true),
        ("127.0.0.1:0", ConnectionsEndpoint::Off, false),
        ("0.0.0.0:0", ConnectionsEndpoint::Auto, false),
        ("0.0.0.0:0", ConnectionsEndpoint::On, true),
    ] {
        let running = start(bind, endpoint).await;
        let (status, _, body) = request(running.address, "GET", "/connections").await;
        assert_eq!(
            status,
            if served { 200 } else { 404 },
            "{bind} {endpoint:?}"
        );
        assert_eq!(body.contains("--connections-endpoint on"), !served);
        let (_, _, page) = request(running.address, "GET", "/").await;
        assert_eq!(page.contains("/connections"), served);
    }
}

#[tokio::test]
async fn several_requests_on_one_connection() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..3 {
        let head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        for byte in head {
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream
        .write_all(b"\x16\x03\x01\x02\x00\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
    assert_eq!(request(running.address, "GET", "/healthz").await.0, 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(TcpStream::connect(running.address).await.unwrap());
    }
    let waiting = tokio::spawn(request(running.address, "GET", "/healthz"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    held.pop();
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_shutdown_waits_for_nobody_long() {
    let running = start("127.0.0.1:0", ConnectionsEndpoint::Auto).await;
    let mut stalled = TcpStream::connect(running.address).await.unwrap();
    stalled.write_all(b"GET /metrics HT").await.unwrap();
    assert_eq!(request(running.address, "GET", "/healthz").await.0, 200);
    running.stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), running.server).await;
    assert!(ended.expect("it ends").unwrap().is_ok());
    assert!(TcpStream::connect(running.address).await.is_err());
}
