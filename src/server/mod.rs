//! The server room: one port that speaks REST and gRPC, and the only module that knows axum, tonic and prost.
//!
//! A request passes `layers` (one chain for both transports), is turned into the domain's types by `convert`, and goes to
//! the [`Captioner`]. Knows nothing of engines, images or ONNX Runtime.

mod error_response;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod health;
mod middleware;
mod model_control;
mod net;
mod protocol;
mod rest;
mod routes;
mod state;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, middleware as axum_middleware, response::Response};
use http::Request;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{compression::CompressionLayer, decompression::RequestDecompressionLayer};
use tracing::{info, warn};

use crate::{
    captioner::Captioner,
    config::{ConfigError, ServerConfig},
    error::Cause,
    observability::prometheus::Metrics,
};

use self::{
    health::Phase,
    middleware::{
        auth, compression,
        context::{RequestContext, Transport},
        cors,
        layer_state::LayerState,
        layers,
    },
    net::{
        listener::Listeners,
        reload::Reloader,
        tls::{self, Tls},
    },
    routes::RouteClass,
    state::AppState,
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
    /// Certificates cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
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

/// What the server is told from outside while it runs.
#[derive(Debug)]
pub struct Signals<S> {
    /// Ready when the server must stop, with the time for which it goes on accepting.
    pub shutdown: S,
    /// Notified when everything is to be read again.
    pub reload: Arc<Notify>,
}

/// Serves until `shutdown` is ready or an engine dies, then finishes what is in flight within `shutdown_grace`.
///
/// Connections are accepted at once; until `captioner` is ready, health is NOT_SERVING and requests are answered
/// UNAVAILABLE. `admin`, if given, answers health probes and metrics only, without keys.
///
/// # Errors
/// Before the first connection is accepted; or, after all connections are closed, because `captioner` failed or an engine
/// died.
pub async fn serve<E: Into<Cause>>(
    (listener, admin): (TcpListener, Option<TcpListener>),
    config: ServerConfig,
    metrics: Metrics,
    captioner: impl Future<Output = Result<Captioner, E>>,
    signals: Signals<impl Future<Output = Duration>>,
) -> Result<(), ServeError> {
    let (phase, watcher) = watch::channel(Phase::Starting);
    let (api_keys, known_keys) = watch::channel(config.api_keys.clone());
    let tls = config.tls.clone().map(|files| Ok::<_, ConfigError>((watch::Sender::new(tls::load(&files)?), files)));
    let tls = tls.transpose()?.map(|(sender, files)| (files, sender));
    let closing = CancellationToken::new();
    announce(listener.local_addr()?, &config);
    let policy = LayerState::new(&config, &metrics, known_keys, closing.clone(), watcher.clone());
    let state = Arc::new(AppState::new(&config, metrics.clone(), watcher.clone(), closing.clone()));
    let main = layered(&policy, &rest::router(state.clone()), &|route_class| {
        Ok(grpc::router(state.clone(), watcher.clone(), policy.max_body_bytes(route_class))?)
    })?;
    let administrators = policy.for_admin();
    let health =
        layered(&administrators, &rest::admin_router(state.clone()), &|_| Ok(grpc::health_router(watcher.clone())))?;
    let listeners = Listeners::new(closing, config.limits, metrics);
    listeners.spawn(listener, main, tls.as_ref().map(|(_, config)| Tls::new(config.subscribe())));
    if let Some(admin) = admin {
        listeners.spawn(admin, health, None);
    }
    let reloader = Reloader { key_source: config.key_source, api_keys, tls, state: state.clone() };
    let run = async {
        tokio::select! {
            delay = signals.shutdown => (delay, Ok(())),
            error = work(&state, captioner, &phase) => (Duration::ZERO, Err(error)),
        }
    };
    let (delay, outcome) = tokio::select! {
        ended = run => ended,
        () = reloader.run(&signals.reload) => (Duration::ZERO, Ok(())),
    };
    // Not ready, and still accepting: balancers need a while to turn away.
    phase.send_replace(Phase::Leaving);
    info!(delay_s = delay.as_secs_f64(), grace_s = config.shutdown_grace.as_secs_f64(), "shutting down");
    sleep(delay).await;
    phase.send_replace(Phase::Draining);
    listeners.drain(config.shutdown_grace).await;
    info!("stopped");
    outcome
}

/// Opens the state when the models are loaded. Ready when they cannot be served (any more).
async fn work<E: Into<Cause>>(
    state: &AppState,
    captioner: impl Future<Output = Result<Captioner, E>>,
    phase: &watch::Sender<Phase>,
) -> ServeError {
    let captioner = match captioner.await {
        Ok(captioner) => state.open(captioner),
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
    policy: &Arc<LayerState>,
    rest: &Router,
    grpc: &dyn Fn(RouteClass) -> Result<Router, ServeError>,
) -> Result<Application, ServeError> {
    let (rest, inference, metadata) = (rest.clone(), grpc(RouteClass::Inference)?, grpc(RouteClass::Metadata)?);
    let transports = service_fn(move |request: Request<Body>| {
        let context = RequestContext::from_extensions(request.extensions());
        let router = match (context.transport, context.route.class) {
            (Transport::Rest, _) => &rest,
            (Transport::Grpc, RouteClass::Inference) => &inference,
            (Transport::Grpc, _) => &metadata,
        };
        router.clone().oneshot(request)
    });
    let chain = ServiceBuilder::new()
        .layer(axum_middleware::from_fn_with_state(policy.metrics().clone(), layers::identify))
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(CompressionLayer::new().compress_when(compression::is_worth_compressing))
        .option_layer(cors::layer(&policy.cors_origins))
        .layer(axum_middleware::from_fn_with_state(policy.clone(), auth::authenticate))
        .layer(axum_middleware::from_fn_with_state(policy.clone(), layers::limit_body))
        .layer(axum_middleware::from_fn_with_state(policy.clone(), layers::admit))
        .layer(axum_middleware::from_fn_with_state(policy.clone(), layers::expire))
        .layer(axum_middleware::from_fn(compression::negotiate))
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(RequestDecompressionLayer::new())
        .map_request(|request: Request<_>| request.map(Body::new))
        .layer(axum_middleware::from_fn_with_state(policy.clone(), layers::count_body))
        .service(transports);
    Ok(BoxCloneSyncService::new(chain))
}

fn announce(address: SocketAddr, config: &ServerConfig) {
    info!(%address, tls = config.tls.is_some(), "listening for REST and gRPC");
    let is_open = config.api_keys.is_empty() && config.tls.as_ref().is_none_or(|tls| tls.client_authorities.is_none());
    if is_open && !address.ip().is_loopback() {
        warn!(%address, "anyone who reaches this address can use the server: set --api-keys-file or BLIP_API_KEYS");
    }
}
