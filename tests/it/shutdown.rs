//! Shutdown: requests in flight are finished within the grace, the others are closed, and no client delays the end.

use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{Duration, Instant, sleep},
};

use crate::support::{
    ImageServer, Server, connect,
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    read_reply, run,
};

fn request(url: &str) -> String {
    let input = json!({"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]});
    let body = json!({ "inputs": [input] }).to_string();
    format!("POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_request_in_flight_is_answered_before_the_server_stops() {
    run(async {
        let mut server = Server::start(&[]).await;
        let images = ImageServer::start().await;
        let mut busy = connect(server.address, &request(&images.url("/slow"))).await;
        let _silent = TcpStream::connect(server.address).await.unwrap();
        let _half = connect(server.address, "PRI * HT").await;
        images.slow_request().await;
        server.shut_down();
        while TcpStream::connect(server.address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
        images.release();
        // The server closes the connection, though the client did not ask for that.
        assert_eq!(read_reply(&mut busy).await.status, 200);
        server.stopped().await;
    });
}

#[test]
fn an_open_reflection_stream_does_not_delay_the_shutdown() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    run(async {
        let mut server = Server::start(&["--shutdown-grace=20"]).await;
        let mut client = server.grpc(ServerReflectionClient::with_origin);
        let open = client.server_reflection_info(tokio_stream::pending()).await.unwrap();
        let started = Instant::now();
        server.shut_down();
        server.stopped().await;
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(open);
    });
}

#[test]
fn a_request_that_outlives_the_grace_is_answered_unavailable() {
    run(async {
        let mut server = Server::start(&["--shutdown-grace=0.2"]).await;
        let images = ImageServer::start().await;
        let mut stuck = connect(server.address, &request(&images.url("/slow"))).await;
        images.slow_request().await;
        let started = Instant::now();
        server.shut_down();
        let reply = read_reply(&mut stuck).await;
        assert_eq!((reply.status, reply.error().as_str()), (503, "the server is shutting down"));
        assert_eq!(reply.headers["retry-after"], "1");
        server.stopped().await;
        assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&started.elapsed()));
    });
}

#[test]
fn health_watches_end_with_the_server_and_do_not_delay_it() {
    run(async {
        let mut server = Server::start(&["--shutdown-grace=20"]).await;
        let mut client = server.grpc(HealthClient::with_origin);
        let watch = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let mut known = client.watch(watch("blip.v1.CaptionService")).await.unwrap().into_inner();
        let mut unknown = client.watch(watch("unknown")).await.unwrap().into_inner();
        assert_eq!(known.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
        let started = Instant::now();
        server.shut_down();
        assert_eq!(known.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(known.message().await.unwrap().is_none());
        server.stopped().await;
        assert!(started.elapsed() < Duration::from_secs(10));
    });
}
