//! Readiness, and `grpc.health.v1` over it.
//!
//! One watch channel holds the [`Phase`] of the server; REST probes and this service both read it. Check of an unknown
//! service is `NOT_FOUND`; Watch of one sends `SERVICE_UNKNOWN` and stays open. A Watch ends by itself once it has sent the
//! status of a draining server, so that an open stream never delays a shutdown.

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    error::CaptionError,
    server::{
        middleware::context::RequestContext,
        protocol::pb::health::{
            HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
            health_check_response::ServingStatus, health_server::Health,
        },
    },
};

/// The life cycle of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The models are loading.
    Starting,
    /// Accepting requests.
    Serving,
    /// Shutting down: not ready, but still accepting, so that load balancers can stop sending.
    Terminating,
    /// Finishing the requests in flight.
    Draining,
}

/// The answer to requests that are unfinished after the grace period of a shutdown.
pub(crate) const SHUTTING_DOWN: CaptionError = CaptionError::Unavailable("the server is shutting down");

/// The services that have a status; "" is the whole server.
const SERVICES: [&str; 3] = ["", "blip.v1.CaptionService", "inference.GRPCInferenceService"];

/// `grpc.health.v1.Health`.
#[derive(Clone, Debug)]
pub(crate) struct HealthService {
    phase: watch::Receiver<Phase>,
}

impl HealthService {
    pub(crate) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { phase }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(RequestContext::from_extensions(request.extensions()).status(&CaptionError::NotFound));
        }
        let status = serving_status(*self.phase.borrow());
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let status = HealthCheckResponse { status: serving_status(*self.phase.borrow()).into() };
        let statuses = SERVICES.map(|service| (service.to_owned(), status)).into();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        Ok(Response::new(statuses(self.phase.clone(), is_known).boxed()))
    }
}

/// The current status, then every change of it until the server drains.
fn statuses(
    phase: watch::Receiver<Phase>,
    is_known: bool,
) -> impl Stream<Item = Result<HealthCheckResponse, Status>> + Send {
    stream::unfold((phase, None), move |(mut phase, mut last)| async move {
        loop {
            let current = *phase.borrow_and_update();
            let status = if is_known { serving_status(current) } else { ServingStatus::ServiceUnknown };
            if last.replace(status) != Some(status) {
                return Some((Ok(HealthCheckResponse { status: status.into() }), (phase, last)));
            }
            if current == Phase::Draining || phase.changed().await.is_err() {
                return None;
            }
        }
    })
}

fn serving_status(phase: Phase) -> ServingStatus {
    match phase {
        Phase::Serving => ServingStatus::Serving,
        Phase::Starting | Phase::Terminating | Phase::Draining => ServingStatus::NotServing,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    async fn next(stream: &mut (impl Stream<Item = Result<HealthCheckResponse, Status>> + Unpin)) -> Option<i32> {
        stream.next().await.map(|item| item.unwrap().status)
    }

    #[tokio::test]
    async fn a_watch_sends_every_change_and_ends_with_the_server() {
        let (sender, receiver) = watch::channel(Phase::Starting);
        let mut stream = Box::pin(statuses(receiver, true));
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing.into()));
        sender.send_replace(Phase::Serving);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving.into()));
        assert!(next(&mut stream).now_or_never().is_none());
        sender.send_replace(Phase::Draining);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing.into()));
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_watch_of_an_unknown_service_stays_open() {
        let (_sender, receiver) = watch::channel(Phase::Serving);
        let mut stream = Box::pin(statuses(receiver, false));
        assert_eq!(next(&mut stream).await, Some(ServingStatus::ServiceUnknown.into()));
        assert!(next(&mut stream).now_or_never().is_none());
    }
}
