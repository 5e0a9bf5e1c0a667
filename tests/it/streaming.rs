//! Streamed captions, many requests on one stream, and a server that is still loading.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::{
    GrpcClient, ImageServer, Server,
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    model, pb,
    pb::{
        caption_many_response::Result as Outcome, caption_request::Source,
        caption_service_client::CaptionServiceClient, stream_caption_response::Event,
    },
    png, post, run,
};

fn client(server: &Server) -> CaptionServiceClient<GrpcClient> {
    server.grpc(CaptionServiceClient::with_origin)
}

fn image_request(id: &str) -> pb::CaptionRequest {
    pb::CaptionRequest { id: id.into(), source: Some(Source::Image(png().into())), ..Default::default() }
}

fn url_request(id: &str, url: String) -> pb::CaptionRequest {
    pb::CaptionRequest { id: id.into(), source: Some(Source::ImageUrl(url)), ..Default::default() }
}

/// An open `CaptionMany`: where to send requests, and the responses.
async fn many(server: &Server) -> (mpsc::UnboundedSender<pb::CaptionRequest>, Streaming<pb::CaptionManyResponse>) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let requests = stream::poll_fn(move |context| receiver.poll_recv(context));
    let answers = client(server).caption_many(requests).await.unwrap().into_inner();
    (sender, answers)
}

async fn next(answers: &mut Streaming<pb::CaptionManyResponse>) -> (String, Result<String, tonic_types::Status>) {
    let answer = answers.message().await.unwrap().unwrap();
    match answer.result.unwrap() {
        Outcome::Response(response) => {
            assert_eq!(response.id, answer.id);
            (answer.id, Ok(response.captions[0].text.clone()))
        }
        Outcome::Error(status) => (answer.id, Err(status)),
    }
}

#[test]
fn the_pieces_joined_are_the_caption() {
    run(async {
        let server = Server::start(&[]).await;
        let mut client = client(&server);
        for (parameters, prompt) in [
            (pb::GenerationParameters::default(), None),
            (pb::GenerationParameters { max_new_tokens: Some(1), ..Default::default() }, None),
            (
                pb::GenerationParameters {
                    do_sample: Some(true),
                    seed: Some(3),
                    min_new_tokens: Some(30),
                    max_new_tokens: Some(40),
                    ..Default::default()
                },
                Some("a photo of".to_owned()),
            ),
        ] {
            let request = pb::CaptionRequest { parameters: Some(parameters), prompt, ..image_request("7") };
            let whole = client.caption(request.clone()).await.unwrap().into_inner();
            let mut events = client.stream_caption(request).await.unwrap().into_inner();
            let mut text = String::new();
            let end = loop {
                match events.message().await.unwrap().unwrap().event.unwrap() {
                    Event::Piece(piece) => text += &piece,
                    Event::Response(response) => break response,
                }
            };
            assert_eq!(end, whole);
            assert_eq!(text, whole.captions[0].text);
            assert!(events.message().await.unwrap().is_none());
        }
    });
}

#[test]
fn with_beams_only_the_final_response_is_sent() {
    run(async {
        let server = Server::start(&[]).await;
        let parameters = pb::GenerationParameters { num_beams: Some(3), ..Default::default() };
        let request = pb::CaptionRequest { parameters: Some(parameters), ..image_request("") };
        let events = client(&server).stream_caption(request).await.unwrap().into_inner();
        let events: Vec<_> = events.collect().await;
        assert!(
            matches!(&events[..], [Ok(pb::StreamCaptionResponse { event: Some(Event::Response(_)) })]),
            "{events:?}"
        );
    });
}

#[test]
fn a_stream_that_fails_has_the_status_of_the_failure() {
    run(async {
        let server = Server::start(&[]).await;
        let mut client = client(&server);
        let slow = ImageServer::start().await.url("/slow");
        let end =
            async |client: &mut CaptionServiceClient<GrpcClient>, request: Request<pb::CaptionRequest>| -> Status {
                match client.stream_caption(request).await {
                    Ok(events) => events.into_inner().message().await.unwrap_err(),
                    Err(status) => status,
                }
            };
        let text = pb::CaptionRequest { source: Some(Source::Image("text".into())), ..Default::default() };
        let status = end(&mut client, Request::new(text)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "image");
        let mut late = Request::new(url_request("", slow));
        late.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
        assert_eq!(end(&mut client, late).await.code(), Code::DeadlineExceeded);
    });
}

#[test]
fn results_arrive_as_they_finish_and_a_failure_ends_its_own_request_only() {
    run(async {
        let server = Server::start(&[]).await;
        let images = ImageServer::start().await;
        let (requests, mut answers) = many(&server).await;
        requests.send(url_request("slow", images.url("/slow"))).unwrap();
        images.slow_request().await;
        requests.send(image_request("quick")).unwrap();
        let (id, quick) = next(&mut answers).await;
        assert_eq!(id, "quick");
        requests.send(url_request("bad", images.url("/404"))).unwrap();
        let (id, bad) = next(&mut answers).await;
        let bad = bad.unwrap_err();
        assert_eq!((id.as_str(), bad.code), ("bad", Code::InvalidArgument as i32));
        assert!(bad.message.starts_with("img_url: ") && bad.details.len() >= 3, "{bad:?}");
        images.release();
        assert_eq!(next(&mut answers).await, ("slow".to_owned(), quick));
        drop(requests);
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn a_stream_of_requests_is_read_as_fast_as_it_is_handled() {
    run(async {
        let server = Server::start(&[]).await;
        let images = ImageServer::start().await;
        let (requests, mut answers) = many(&server).await;
        for index in 0..20 {
            requests.send(url_request(&index.to_string(), images.url("/slow"))).unwrap();
        }
        while images.slow_requests.load(Ordering::SeqCst) < 8 {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(100)).await;
        assert_eq!(images.slow_requests.load(Ordering::SeqCst), 8);
        drop(requests);
        for _ in 0..20 {
            images.release();
            next(&mut answers).await.1.unwrap();
        }
        assert_eq!(images.slow_requests.load(Ordering::SeqCst), 20);
    });
}

#[test]
fn a_stream_keeps_its_permit_to_its_end() {
    run(async {
        let server = Server::start(&["--queue-capacity=1"]).await;
        let (requests, mut answers) = many(&server).await;
        let mut other = client(&server);
        assert_eq!(other.caption(image_request("")).await.unwrap_err().code(), Code::ResourceExhausted);
        drop(requests);
        assert!(answers.message().await.unwrap().is_none());
        while other.caption(image_request("")).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_refused_stream_is_answered_at_once() {
    run(async {
        let server = Server::start(&["--api-keys=alpha"]).await;
        let requests = stream::pending::<pb::CaptionRequest>();
        let started = std::time::Instant::now();
        let status = client(&server).caption_many(requests).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(started.elapsed() < Duration::from_secs(4));
    });
}

#[test]
fn a_silent_stream_of_requests_ends_at_the_deadline() {
    run(async {
        let server = Server::start(&["--request-timeout=0.2"]).await;
        let (_requests, mut answers) = many(&server).await;
        assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    });
}

#[test]
fn a_shutdown_finishes_requests_in_flight_and_ends_the_streams() {
    run(async {
        let mut server = Server::start(&["--shutdown-grace=20"]).await;
        let images = ImageServer::start().await;
        let (requests, mut answers) = many(&server).await;
        requests.send(url_request("slow", images.url("/slow"))).unwrap();
        images.slow_request().await;
        server.shut_down();
        sleep(Duration::from_millis(50)).await;
        images.release();
        next(&mut answers).await.1.unwrap();
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
        server.stopped().await;
    });
}

#[test]
fn a_streamed_caption_ends_with_the_grace() {
    run(async {
        let mut server = Server::start(&["--shutdown-grace=0.2"]).await;
        let images = ImageServer::start().await;
        let slow = url_request("", images.url("/slow"));
        let mut events = client(&server).stream_caption(slow).await.unwrap().into_inner();
        let reading = tokio::spawn(async move { events.message().await.unwrap_err() });
        images.slow_request().await;
        server.shut_down();
        assert_eq!(reading.await.unwrap().code(), Code::Unavailable);
        server.stopped().await;
    });
}

/// The events of a response.
fn events(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter(|event| !event.is_empty());
    data.map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn server_sent_events_have_a_piece_each_and_the_last_the_caption() {
    run(async {
        let server = Server::start(&[]).await;
        let images = ImageServer::start().await;
        let path = format!("/v2/models/{}/generate_stream", model());
        let body = |url: &str| json!({"id": "7", "image_url": images.url(url), "text_input": "a"}).to_string();
        let reply = post(server.address, &path, &[], &body("/cat.png")).await;
        assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "text/event-stream; charset=utf-8"));
        let body_text: String = dechunk(&reply.text);
        let events = events(&body_text);
        let text: String = events.iter().map(|event| event["text_output"].as_str().unwrap()).collect();
        let last = events.last().unwrap();
        assert!(events.len() > 2 && events.iter().all(|event| event["id"] == "7" && event["model_name"] == model()));
        assert_eq!(last["caption"], json!(text));
        assert!(["eos", "length"].contains(&last["finish_reason"].as_str().unwrap()), "{last}");
        let refused = post(server.address, &path, &[], &body("/404")).await;
        assert_eq!(refused.status, 400);
        assert!(refused.error().starts_with("img_url: "), "{refused:?}");
    });
}

/// The body of a chunked response.
fn dechunk(text: &str) -> String {
    let mut rest = text;
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

#[test]
fn a_loading_server_answers_unavailable() {
    run(async {
        let (server, load) = Server::start_loading(&[]).await;
        let mut health = server.grpc(HealthClient::with_origin);
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        for (path, status) in [("/v2/health/live", 200), ("/v2/health/ready", 503), ("/v2", 200), ("/docs/", 200)] {
            assert_eq!(crate::support::get(server.address, path, &[]).await.status, status, "{path}");
        }
        let early = post(server.address, "/infer", &[], "{}").await;
        assert_eq!((early.status, early.error().as_str()), (503, "the models are loading"));
        assert_eq!(early.headers["retry-after"], "1");
        let status = client(&server).caption(image_request("")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_error_details().retry_info().is_some());
        load.send(()).unwrap();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        client(&server).caption(image_request("")).await.unwrap();
    });
}
