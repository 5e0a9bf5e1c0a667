//! Limits over REST: bodies, permits, deadlines, headers, and clients that disconnect. `grpc` tests those of gRPC.

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::support::{ImageServer, Reply, Server, chunked_post, connect, exchange, get, post, read_reply, run};

fn body(url: &str) -> String {
    json!({"inputs": [{"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]}]}).to_string()
}

fn request(url: &str) -> String {
    let body = body(url);
    format!("POST /infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn assert_too_large(reply: &Reply) {
    assert_eq!((reply.status, reply.error().as_str()), (413, "request body is larger than 1000 bytes"));
}

#[test]
fn an_oversize_body_is_answered_and_not_reset() {
    run(async {
        let server = Server::start(&["--max-body-bytes=1000"]).await.address;
        for size in [1001, 10_000_000] {
            assert_too_large(&post(server, "/infer", &[], &"x".repeat(size)).await);
            assert_too_large(&chunked_post(server, "/infer", &"x".repeat(size)).await);
        }
        let held_back = "POST /infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1001\r\nconnection: close\r\n\r\n";
        assert_too_large(&exchange(server, held_back).await);
        let fits = post(server, "/infer", &[], &" ".repeat(1000)).await;
        assert_eq!(fits.status, 400);
    });
}

#[test]
fn a_form_may_be_as_large_as_any_body() {
    run(async {
        let server = Server::start(&[]).await.address;
        let form = |size: usize| {
            let head = "--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n";
            format!("{head}{}\r\n--x--\r\n", "x".repeat(size))
        };
        let content_type = ["content-type: multipart/form-data; boundary=x"];
        let reply = post(server, "/v1/captions", &content_type, &form(1_900_000)).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (400, "image: not an image in a supported format (JPEG, PNG, GIF, WebP, BMP, TIFF)")
        );
        let reply = post(server, "/v1/captions", &content_type, &form(3_000_000)).await;
        assert_eq!(reply.error(), "image: is larger than the limit of 2000000 bytes");
    });
}

#[test]
fn a_body_that_holds_no_image_is_small() {
    run(async {
        let server = Server::start(&[]).await.address;
        let reply = post(server, "/v2/repository/index", &[], &" ".repeat(70_000)).await;
        assert_eq!((reply.status, reply.error().as_str()), (413, "request body is larger than 65536 bytes"));
        let reply = chunked_post(server, "/v2/repository/index", &" ".repeat(70_000)).await;
        assert_eq!(reply.status, 413);
    });
}

#[test]
fn a_response_is_plain_for_a_client_that_accepts_no_known_encoding() {
    run(async {
        let server = Server::start(&[]).await.address;
        for accepted in ["br", "identity;q=0", "*;q=0", "gzip;q=0"] {
            let reply = get(server, "/v2", &[&format!("accept-encoding: {accepted}")]).await;
            assert!(reply.status == 200 && !reply.headers.contains_key("content-encoding"), "{accepted}: {reply:?}");
        }
    });
}

#[test]
fn without_a_permit_inference_is_refused_and_probes_are_answered() {
    run(async {
        let server = Server::start(&["--queue-capacity=1"]).await.address;
        let images = ImageServer::start().await;
        let mut first = connect(server, &request(&images.url("/slow"))).await;
        images.slow_request().await;
        let second = exchange(server, &request(&images.url("/cat.png"))).await;
        assert_eq!((second.status, second.headers["retry-after"].as_str()), (429, "1"));
        assert_eq!(second.error(), "the server is at its capacity (queue_capacity), try again later");
        for path in ["/v2/health/live", "/v2/health/ready", "/v2"] {
            assert_eq!(get(server, path, &[]).await.status, 200, "{path}");
        }
        images.release();
        assert_eq!(read_reply(&mut first).await.status, 200);
        assert_eq!(exchange(server, &request(&images.url("/cat.png"))).await.status, 200);
    });
}

#[test]
fn a_client_that_disconnects_returns_its_permit() {
    run(async {
        let server = Server::start(&["--queue-capacity=1"]).await.address;
        let images = ImageServer::start().await;
        let first = connect(server, &request(&images.url("/slow"))).await;
        images.slow_request().await;
        drop(first);
        let give_up = Instant::now() + Duration::from_secs(3);
        loop {
            let reply = exchange(server, &request(&images.url("/cat.png"))).await;
            if reply.status == 200 {
                break;
            }
            assert!(reply.status == 429 && Instant::now() < give_up, "{reply:?}");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(images.slow_requests.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn the_deadline_is_the_client_s_or_the_server_s() {
    run(async {
        let images = ImageServer::start().await;
        let slow = body(&images.url("/slow"));
        let patient = Server::start(&[]).await.address;
        let hasty = Server::start(&["--request-timeout=0.1"]).await.address;
        for (server, headers) in
            [(patient, &["x-request-timeout-ms: 100"][..]), (hasty, &[]), (hasty, &["x-request-timeout-ms: 100000"])]
        {
            let started = Instant::now();
            let reply = post(server, "/infer", headers, &slow).await;
            assert_eq!((reply.status, reply.error().as_str()), (504, "deadline exceeded"));
            assert!(started.elapsed() < Duration::from_secs(4));
        }
        let reply = post(patient, "/infer", &["x-request-timeout-ms: soon"], &slow).await;
        assert!(reply.status == 400 && reply.error().starts_with("x-request-timeout-ms: "), "{reply:?}");
    });
}

#[test]
fn a_body_that_never_arrives_is_answered_at_the_deadline() {
    run(async {
        let server = Server::start(&["--request-timeout=0.2"]).await.address;
        let half = "POST /infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
        let reply = exchange(server, half).await;
        assert_eq!(reply.status, 504);
    });
}

#[test]
fn headers_are_bounded() {
    run(async {
        let server = Server::start(&[]).await.address;
        let long = format!("x-long: {}", "y".repeat(100_000));
        assert_eq!(get(server, "/v2", &[&long]).await.status, 431);
        let many: Vec<String> = (0..200).map(|index| format!("x-{index}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(get(server, "/v2", &many).await.status, 431);
    });
}
