//! A web server with one good image and every kind of bad response.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Serves until the end of the test process.
pub(crate) struct ImageServer {
    address: String,
    /// Requests for `/slow` so far.
    pub(crate) slow_requests: Arc<AtomicUsize>,
    arrived: Arc<Notify>,
    release: Arc<Notify>,
}

impl ImageServer {
    /// Starts on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            slow_requests: Arc::default(),
            arrived: Arc::default(),
            release: Arc::default(),
        };
        let (count, arrived, release) = (server.slow_requests.clone(), server.arrived.clone(), server.release.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, count.clone(), arrived.clone(), release.clone()));
            }
        });
        server
    }

    /// The URL of one of the paths of `response`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until a request for `/slow` has arrived.
    pub(crate) async fn slow_request(&self) {
        self.arrived.notified().await;
    }

    /// Answers one request for `/slow`.
    pub(crate) fn release(&self) {
        self.release.notify_one();
    }
}

async fn answer(mut stream: TcpStream, count: Arc<AtomicUsize>, arrived: Arc<Notify>, release: Arc<Notify>) {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap_or_default();
    // A request to a proxy has a whole URL.
    let path = target.strip_prefix("http://example.com").unwrap_or(target);
    match path {
        "/slow" => {
            count.fetch_add(1, Ordering::SeqCst);
            arrived.notify_one();
            release.notified().await;
        }
        "/silent" => wait_for_close(&mut stream).await,
        _ => {}
    }
    // A client that refuses the response closes the connection.
    stream.write_all(&response(path)).await.ok();
    match path {
        "/endless" => repeat(stream, &[b"1000\r\n", &[7; 0x1000][..], b"\r\n"].concat()).await,
        "/endless_head" => repeat(stream, format!("x: {}\r\n", "x".repeat(1000)).as_bytes()).await,
        "/stalled" => wait_for_close(&mut stream).await,
        _ => {}
    }
}

async fn wait_for_close(stream: &mut TcpStream) {
    stream.read_u8().await.ok();
}

async fn repeat(mut stream: TcpStream, bytes: &[u8]) {
    while stream.write_all(bytes).await.is_ok() {}
}

fn response(path: &str) -> Vec<u8> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let redirect =
        |target: &str| format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n").into();
    let ok = |headers: &str, body: &[u8]| {
        let length = body.len();
        [format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n").as_bytes(), body]
            .concat()
    };
    match path {
        "/cat.png" | "/slow" => ok("content-type: image/png\r\n", &png()),
        "/mislabelled" => ok("content-type: text/html\r\n", &png()),
        "/text" => ok("content-type: image/png\r\n", b"this is not an image"),
        "/empty" => ok("", b""),
        "/encoded" => ok("content-encoding: gzip\r\n", &png()),
        "/announced" => b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
        "/endless" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        "/short" => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\nonly this".to_vec(),
        "/partial" => b"HTTP/1.1 206 Partial Content\r\ncontent-length: 1\r\n\r\nx".to_vec(),
        "/garbage" => b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec(),
        "/stalled" => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this".to_vec(),
        "/endless_head" => b"HTTP/1.1 200 OK\r\n".to_vec(),
        "/many_headers" => ok(&"x: y\r\n".repeat(200), &png()),
        "/not_modified" => b"HTTP/1.1 304 Not Modified\r\nlocation: /cat.png\r\n\r\n".to_vec(),
        "/redirect" => redirect(query),
        "/loop" => redirect("/loop"),
        "/nowhere" => b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
    }
}

/// One of the sample images.
pub(crate) fn png() -> Vec<u8> {
    include_bytes!("../../../examples/images/tree-cat.png").to_vec()
}
