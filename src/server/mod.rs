//! The server room: one port that speaks REST and gRPC, and the only module that knows axum, tonic and prost.
//!
//! A request passes `layers` (one chain for both transports), is turned into the domain's types by `convert`, and goes to
//! the [`Captioner`]. Knows nothing of engines, images or ONNX Runtime.

mod body;
mod connection;
mod context;
mod convert;
mod grpc;
mod health;
mod house;
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
use tracing::{info, warn};

use crate::{
    captioner::Captioner,
    config::{ApiKeys, ServerConfig},
};

use self::{
    context::{RequestContext, Wire},
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
    /// Only a restart helps.
    #[error("a model's engine stopped")]
    EngineStopped,
}

/// Serves until `shutdown` is ready or an engine dies, then finishes what is in flight within `shutdown_grace`.
///
/// `admin`, if given, answers health probes only, without keys.
///
/// # Errors
/// Before the first connection is accepted, or because an engine died, after all connections are closed.
pub async fn serve(
    listener: TcpListener,
    admin: Option<TcpListener>,
    config: ServerConfig,
    captioner: Captioner,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (phase, watcher) = watch::channel(Phase::Starting);
    let closing = CancellationToken::new();
    announce(listener.local_addr()?, &config.api_keys);
    let policy = Policy::new(&config, closing.clone());
    let house = Arc::new(House::new(&config, captioner.clone(), watcher.clone()));
    let main = layered(&policy, rest::router(house.clone()), grpc::router(house.clone(), watcher.clone())?);
    let health = layered(&policy, rest::health_router(house), grpc::health_router(watcher));

    // The models are loaded; whoever gets in finds the server ready.
    phase.send_replace(Phase::Serving);
    let listeners = Listeners::new(closing);
    listeners.spawn(listener, main);
    if let Some(admin) = admin {
        listeners.spawn(admin, health);
    }
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        () = engine_death(&captioner) => Err(ServeError::EngineStopped),
    };
    info!(grace_s = config.shutdown_grace.as_secs_f64(), "shutting down");
    phase.send_replace(Phase::Draining);
    listeners.drain(config.shutdown_grace).await;
    info!("stopped");
    outcome
}

/// Ready when a model cannot be served any more; only a restart helps then.
async fn engine_death(captioner: &Captioner) {
    let mut ticks = interval(ENGINE_CHECK);
    while captioner.registry().is_serving() {
        ticks.tick().await;
    }
}

fn layered(policy: &Arc<Policy>, rest: Router, grpc: Router) -> Application {
    let transports = service_fn(move |request: Request<Body>| {
        let is_grpc = RequestContext::from_extensions(request.extensions()).wire == Wire::Grpc;
        if is_grpc { grpc.clone().oneshot(request) } else { rest.clone().oneshot(request) }
    });
    let chain = ServiceBuilder::new()
        .layer(middleware::from_fn(layers::identify))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::authenticate))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::limit_body))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::admit))
        .layer(middleware::from_fn_with_state(policy.clone(), layers::expire))
        .service(transports);
    BoxCloneSyncService::new(chain)
}

fn announce(address: SocketAddr, api_keys: &ApiKeys) {
    info!(%address, "listening for REST and gRPC");
    if api_keys.is_empty() && !address.ip().is_loopback() {
        warn!(%address, "anyone who reaches this address can use the server: set --api-keys-file or BLIP_API_KEYS");
    }
}
