//! HTTP/1.1 by hand, so that tests send and see exact bytes.

use std::{collections::HashMap, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    /// The body; fails the test if it is not JSON or not declared as JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The text of an error.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    /// `outputs[0].data` as strings.
    pub(crate) fn captions(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_value(self.json()["outputs"][0]["data"].clone()).unwrap()
    }
}

/// A connection with a request on it.
pub(crate) async fn connect(server: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Sends the bytes of a request with `connection: close` and reads the response.
pub(crate) async fn exchange(server: SocketAddr, request: &str) -> Reply {
    read_reply(&mut connect(server, request).await).await
}

/// The response up to the end of the connection.
pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes).await.unwrap();
    let answer = String::from_utf8(bytes).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {answer:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Reply { status, headers: lines.filter_map(header).collect(), text: text.to_owned() }
}

/// Sends a GET request.
pub(crate) async fn get(server: SocketAddr, path: &str, headers: &[&str]) -> Reply {
    exchange(server, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n", lines(headers))).await
}

/// Sends a POST request without a content type.
pub(crate) async fn post(server: SocketAddr, path: &str, headers: &[&str], body: &str) -> Reply {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    exchange(server, &format!("{head}{}\r\n{body}", lines(headers))).await
}

/// Sends a POST request without a content length.
pub(crate) async fn chunked_post(server: SocketAddr, path: &str, body: &str) -> Reply {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    let half = body.len() / 2;
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    exchange(server, &format!("{head}{}{}0\r\n\r\n", chunk(&body[..half]), chunk(&body[half..]))).await
}

fn lines(headers: &[&str]) -> String {
    headers.iter().flat_map(|header| [header, "\r\n"]).collect()
}
