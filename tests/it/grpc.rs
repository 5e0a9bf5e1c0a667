//! `blip.v1` with a real gRPC client.

use std::time::Duration;

use futures_util::stream;
use http_body_util::Full;
use hyper::client::conn::http2::handshake;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use prost::Message;
use serde_json::json;
use tokio::{net::TcpStream, time::sleep};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::{
    GrpcClient, ImageServer, Server,
    health::{HealthCheckRequest, health_client::HealthClient},
    model, pb,
    pb::{caption_request::Source, caption_service_client::CaptionServiceClient},
    png, post, refused_sentence, run,
};

fn client(server: &Server) -> CaptionServiceClient<GrpcClient> {
    server.grpc(CaptionServiceClient::with_origin).max_encoding_message_size(usize::MAX)
}

fn image_request() -> pb::CaptionRequest {
    pb::CaptionRequest { source: Some(Source::Image(png().into())), ..Default::default() }
}

fn at(url: String) -> pb::CaptionRequest {
    pb::CaptionRequest { source: Some(Source::ImageUrl(url)), ..Default::default() }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[test]
fn a_caption_is_the_same_over_both_transports() {
    run(async {
        let server = Server::start(&[]).await;
        let images = ImageServer::start().await;
        let mut client = client(&server);
        let parameters = pb::GenerationParameters {
            num_beams: Some(3),
            num_return_sequences: Some(2),
            repetition_penalty: Some(1.2),
            early_stopping: Some("true".into()),
            ..Default::default()
        };
        let asked = pb::CaptionRequest {
            model: model().into(),
            prompt: Some("a".into()),
            parameters: Some(parameters),
            id: "x".into(),
            ..image_request()
        };
        let reply = client.caption(asked.clone()).await.unwrap().into_inner();
        assert_eq!((reply.id.as_str(), reply.model.as_str(), reply.model_version.as_str()), ("x", model(), "1"));
        let by_url = pb::CaptionRequest { source: at(images.url("/cat.png")).source, ..asked };
        assert_eq!(client.caption(by_url).await.unwrap().into_inner(), reply);
        for caption in &reply.captions {
            assert!(caption.token_ids.len() > 1 && caption.score.is_finite(), "{caption:?}");
            assert_ne!(caption.finish_reason(), pb::FinishReason::Unspecified);
        }
        let input = |name: &str, text: &str| json!({"name": name, "shape": [1], "datatype": "BYTES", "data": [text]});
        let body = json!({
            "inputs": [input("img_url", &images.url("/cat.png")), input("text", "a")],
            "parameters": {"num_beams": 3, "num_return_sequences": 2, "repetition_penalty": 1.2, "early_stopping": true},
        });
        let rest = post(server.address, "/infer", &[], &body.to_string()).await.captions();
        assert_eq!(rest, reply.captions.iter().map(|caption| caption.text.clone()).collect::<Vec<_>>());
    });
}

#[test]
fn mistakes_are_invalid_arguments_with_their_field() {
    run(async {
        let server = Server::start(&[]).await;
        let mut client = client(&server);
        let with = |parameters| pb::CaptionRequest { parameters: Some(parameters), ..image_request() };
        let text = pb::CaptionRequest { source: Some(Source::Image("text".into())), ..Default::default() };
        for (request, field) in [
            (pb::CaptionRequest::default(), "image"),
            (text, "image"),
            (at("http://127.0.0.1:1/".into()), "img_url"),
            (with(pb::GenerationParameters { num_beams: Some(0), ..Default::default() }), "num_beams"),
            (
                with(pb::GenerationParameters { early_stopping: Some("x".into()), ..Default::default() }),
                "early_stopping",
            ),
            (
                with(pb::GenerationParameters { top_p: Some(f64::NAN), do_sample: Some(true), ..Default::default() }),
                "top_p",
            ),
        ] {
            let status = client.caption(request).await.unwrap_err();
            let details = status.get_error_details();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{status}");
            assert!(status.message().starts_with(&format!("{field}: ")), "{status}");
            assert_eq!(
                details.request_info().unwrap().request_id,
                status.metadata().get("x-request-id").unwrap().to_str().unwrap()
            );
        }
        let status = client.caption(at("ftp://x/".into())).await.unwrap_err();
        assert_eq!((status.message(), reason(&status)), (refused_sentence().as_str(), "IMAGE_URL_REFUSED".into()));
        let status = client.caption(pb::CaptionRequest { model: "none".into(), ..image_request() }).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::NotFound, "UNKNOWN_MODEL".into()));
    });
}

#[test]
fn keys_are_metadata_and_health_needs_none() {
    run(async {
        let server = Server::start(&["--api-keys=alpha"]).await;
        let mut client = client(&server);
        let status = client.caption(image_request()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
        let mut request = Request::new(image_request());
        request.metadata_mut().insert("authorization", "Bearer alpha".parse().unwrap());
        client.caption(request).await.unwrap();
        server.grpc(HealthClient::with_origin).check(HealthCheckRequest::default()).await.unwrap();
    });
}

/// One call by hand: a gRPC client with a deadline would answer for the server.
async fn call_with_timeout(server: &Server, message: &pb::CaptionRequest, timeout: &str) -> Status {
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let message = message.encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let request = http::Request::post(format!("http://{}/blip.v1.CaptionService/Caption", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Full::new(bytes::Bytes::from(frame)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

#[test]
fn deadlines_have_their_code() {
    run(async {
        let server = Server::start(&[]).await;
        let slow = at(ImageServer::start().await.url("/slow"));
        let late = call_with_timeout(&server, &slow, "200m").await;
        assert_eq!((late.code(), reason(&late)), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
        let odd = call_with_timeout(&server, &slow, "soon").await;
        assert_eq!(odd.code(), Code::InvalidArgument);
        assert!(odd.message().starts_with("grpc-timeout: must be"), "{odd}");
    });
}

#[test]
fn a_full_queue_is_resource_exhausted_with_a_retry_delay() {
    run(async {
        let server = Server::start(&["--queue-capacity=1"]).await;
        let images = ImageServer::start().await;
        let mut client = client(&server);
        let (mut other, slow) = (client.clone(), at(images.url("/slow")));
        let first = tokio::spawn(async move { other.caption(slow).await });
        images.slow_request().await;
        let status = client.caption(image_request()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "OVERLOADED".into()));
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
        images.release();
        first.await.unwrap().unwrap();
        client.caption(image_request()).await.unwrap();
    });
}

#[test]
fn an_oversize_message_is_resource_exhausted() {
    run(async {
        let server = Server::start(&["--max-body-bytes=100000"]).await;
        let large = pb::CaptionRequest { source: Some(Source::Image(vec![0; 5_000_000].into())), ..Default::default() };
        let status = client(&server).caption(large).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "BODY_TOO_LARGE".into()));
        assert_eq!(status.message(), "request body is larger than 100000 bytes");
    });
}

#[test]
fn an_unknown_method_is_unimplemented_and_an_invalid_message_is_refused() {
    run(async {
        let server = Server::start(&[]).await;
        let call = async |path: &'static str, message: Vec<u8>| {
            let mut client = server.grpc(tonic::client::Grpc::with_origin);
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<Bytes, Bytes>::default();
            client.unary(Request::new(Bytes { field: message }), path.parse().unwrap(), codec).await.unwrap_err()
        };
        for path in ["/blip.v1.CaptionService/Nothing", "/nobody.Service/Nothing"] {
            let status = call(path, vec![]).await;
            assert_eq!((status.code(), reason(&status)), (Code::Unimplemented, "UNIMPLEMENTED".into()), "{path}");
        }
        // Field 1 is a string there, and these bytes are not UTF-8.
        let status = call("/blip.v1.CaptionService/Caption", vec![0xff, 0xfe]).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(status.message(), "message: is not a valid gRPC message of this method");
    });
}

/// A message of one bytes field, to send what no well-behaved client would.
#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    field: Vec<u8>,
}

#[test]
fn responses_that_are_not_read_do_not_stall_other_requests_of_the_connection() {
    run(async {
        let server = Server::start(&["--write-timeout=1"]).await;
        let images = ImageServer::start().await;
        // A window for a part of an answer.
        let mut builder = Client::builder(TokioExecutor::new());
        let client = builder.http2_only(true).http2_initial_stream_window_size(1024).build_http();
        let origin = format!("http://{}", server.address).parse().unwrap();
        let mut client = CaptionServiceClient::with_origin(client, origin);
        let mut stalled = client.caption_many(stream::iter(vec![image_request(); 300])).await.unwrap().into_inner();
        let slow = at(images.url("/slow"));
        let slow = tokio::spawn(async move { client.caption(slow).await });
        images.slow_request().await;
        // Longer than the time-out and the time between two looks at it.
        sleep(Duration::from_secs(3)).await;
        images.release();
        slow.await.unwrap().unwrap();
        // No other request is left on the connection.
        sleep(Duration::from_secs(3)).await;
        let end = loop {
            match stalled.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(end.is_err(), "{end:?}");
    });
}
