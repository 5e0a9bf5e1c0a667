//! The server room: one port that speaks REST and gRPC, and the only module that knows axum, tonic and prost.
//!
//! A request passes `layers` (one chain for both transports), is turned into the domain's types by `convert`, and goes to
//! the [`Captioner`]. Knows nothing of engines, images or ONNX Runtime.

mod activity;
mod body;
mod connection;
mod context;
mod convert;
mod cors;
mod encoding;
mod grpc;
mod health;
mod house;
mod inference;
mod json;
mod layers;
mod listen;
mod pb;
mod rest;
mod status;
mod timeout;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, middleware, response::Response};
use http::Request;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch, time::interval};
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{compression::CompressionLayer, decompression::RequestDecompressionLayer};
use tracing::{info, warn};

use crate::{
    captioner::Captioner,
    config::{ApiKeys, ServerConfig},
    error::Cause,
};

use self::{
    context::{Kind, RequestContext, Wire},
    health::Phase,
    house::House,
    layers::Policy,
    listen::Listeners,
};

/// Between two looks at whether the engines still run.
const ENGINE_CHECK: Duration = Duration::from_secs(1);

/// Both transports behind the chain of layers.
type Application = BoxCloneSyncService<Request<Body>, Response, Infallible>;

/// Why the server ended, other than on request.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket is gone.
    #[error("the listening socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// Our own descriptors are at fault.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// There is nothing to serve.
    #[error("{0}")]
    Load(#[source] Cause),
    /// Only a restart helps.
    #[error("a model's engine stopped")]
    EngineStopped,
}

/// Serves until `shutdown` is ready or an engine dies, then finishes what is in flight within `shutdown_grace`.
///
/// Connections are accepted at once; until `captioner` is ready, health is NOT_SERVING and requests are answered
/// UNAVAILABLE. `admin`, if given, answers health probes only, without keys.
///
/// # Errors
/// Before the first connection is accepted; or, after all connections are closed, because `captioner` failed or an engine
/// died.
pub async fn serve<E: Into<Cause>>(
    listener: TcpListener,
    admin: Option<TcpListener>,
    config: ServerConfig,
    captioner: impl Future<Output = Result<Captioner, E>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (phase, watcher) = watch::channel(Phase::Starting);
    let closing = CancellationToken::new();
    announce(listener.local_addr()?, &config.api_keys);
    let policy = Policy::new(&config, closing.clone(), watcher.clone());
    let house = Arc::new(House::new(&config, watcher.clone(), closing.clone()));
    let main = layered(&policy, &rest::router(house.clone()), &|kind| {
        Ok(grpc::router(house.clone(), watcher.clone(), policy.max_body_bytes(kind))?)
    })?;
    let health = layered(&policy, &rest::health_router(house.clone()), &|_| Ok(grpc::health_router(watcher.clone())))?;
    let listeners = Listeners::new(closing);
    listeners.spawn(listener, main);
    if let Some(admin) = admin {
        listeners.spawn(admin, health);
    }
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        error = work(&house, captioner, &phase) => Err(error),
    };
    info!(grace_s = config.shutdown_grace.as_secs_f64(), "shutting down");
    phase.send_replace(Phase::Draining);
    listeners.drain(config.shutdown_grace).await;
    info!("stopped");
    outcome
}

/// Opens the house when the models are loaded. Ready when they cannot be served (any more).
async fn work<E: Into<Cause>>(
    house: &House,
    captioner: impl Future<Output = Result<Captioner, E>>,
    phase: &watch::Sender<Phase>,
) -> ServeError {
    let captioner = match captioner.await {
        Ok(captioner) => house.open(captioner),
        Err(error) => return ServeError::Load(error.into()),
    };
    phase.send_replace(Phase::Serving);
    info!("ready");
    let mut ticks = interval(ENGINE_CHECK);
    while captioner.registry().is_serving() {
        ticks.tick().await;
    }
    ServeError::EngineStopped
}

/// The transports behind the chain. `grpc` makes a router whose messages are bounded for one kind of request.
fn layered(
    policy: &Arc<Policy>,
    rest: &Router,
    grpc: &dyn Fn(Kind) -> Result<Router, ServeError>,
) -> Result<Application, ServeError> {
    let (rest, inference, metadata) = (rest.clone(), grpc(Kind::Inference)?, grpc(Kind::Metadata)?);
    let transports = service_fn(move |request: Request<Body>| {
        let context = RequestContext::from_extensions(request.extensions());
        let router = match (context.wire, context.kind) {
            (Wire::Rest, _) => &rest,
            (Wire::Grpc, Kind::Inference) => &inference,
            (Wire::Grpc, Kind::Open | Kind::Metadata) => &metadata,
        };
        router.clone().oneshot(request)
    });
    let chain = ServiceBuilder::new()
        .layer(middleware::from_fn(layers::identify))
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(CompressionLayer::new().compress_when(encoding::is_worth_compressing))
        .option_layer(cors::layer(&policy.cors_origins))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::authenticate))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::limit_body))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::admit))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::expire))
        .layer(middleware::from_fn(encoding::check_encoding))
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(RequestDecompressionLayer::new())
        .map_request(|request: Request<_>| request.map(Body::new))
        .service(transports);
    Ok(BoxCloneSyncService::new(chain))
}

fn announce(address: SocketAddr, api_keys: &ApiKeys) {
    info!(%address, "listening for REST and gRPC");
    if api_keys.is_empty() && !address.ip().is_loopback() {
        warn!(%address, "anyone who reaches this address can use the server: set --api-keys-file or BLIP_API_KEYS");
    }
}
