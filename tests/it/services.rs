//! Health and reflection with real gRPC clients.

use tonic::Code;

use crate::support::{
    Server,
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    run,
};

#[test]
fn health_follows_the_standard() {
    run(async {
        let server = Server::start(&[]).await;
        let mut client = server.grpc(HealthClient::with_origin);
        let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
        for service in ["", "blip.v1.CaptionService"] {
            let reply = client.check(request(service)).await.unwrap().into_inner();
            assert_eq!(reply.status(), ServingStatus::Serving, "{service}");
        }
        assert_eq!(client.check(request("unknown")).await.unwrap_err().code(), Code::NotFound);
    });
}

/// The names of all services, from one version of the reflection service.
macro_rules! service_names {
    ($version:ident, $server:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { message_request, ..Default::default() };
        let mut client = $server.grpc(ServerReflectionClient::with_origin);
        let mut replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        match replies.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<String>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[test]
fn reflection_lists_every_service_in_both_versions() {
    run(async {
        let server = Server::start(&[]).await;
        for (names, own) in [
            (service_names!(v1, server), "grpc.reflection.v1.ServerReflection"),
            (service_names!(v1alpha, server), "grpc.reflection.v1alpha.ServerReflection"),
        ] {
            for service in ["blip.v1.CaptionService", "grpc.health.v1.Health", own] {
                assert!(names.iter().any(|name| name == service), "{service}: {names:?}");
            }
        }
    });
}
