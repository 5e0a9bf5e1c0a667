//! The server: one port for REST and gRPC, and the only module that uses axum, tonic and prost.
//!
//! A request passes the middleware (`middleware::stack`, one chain for both transports), is converted to the types of
//! `caption` by `protocol`, and goes to the [`Captioner`]. `routes` lists every route. The server does not use engines,
//! pixels or ONNX Runtime.

mod error_response;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod handlers;
mod health;
mod middleware;
mod net;
mod protocol;
mod rest;
mod routes;
mod state;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;
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
        layer_state::LayerState,
        stack::{Routers, middleware_stack},
    },
    net::{
        listener::Listeners,
        reload::Reloader,
        tls::{self, Tls},
    },
    routes::RouteClass,
    state::AppState,
};

/// Time between two checks that the engines still run.
const ENGINE_CHECK: Duration = Duration::from_secs(1);

/// Why the server ended, other than on request.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The listening socket failed.
    #[error("the listening socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// Certificates cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The embedded descriptors of the services are damaged.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The models cannot be loaded.
    #[error("{0}")]
    Load(#[source] Cause),
    /// A model's engine stopped, and only a restart helps.
    #[error("a model's engine stopped")]
    EngineStopped,
}

/// The listening sockets.
#[derive(Debug)]
pub struct Sockets {
    /// REST and gRPC.
    pub main: TcpListener,
    /// Health and metrics without keys, in plain text.
    pub admin: Option<TcpListener>,
}

/// Signals to a running server.
#[derive(Debug)]
pub struct ControlSignals<S> {
    /// Ready when the server must stop; its output is how long it still accepts connections.
    pub shutdown: S,
    /// Notified to reload keys, certificates and models.
    pub reload: Arc<Notify>,
}

/// Serves until `shutdown` is ready or an engine stops, then finishes the requests in flight within `shutdown_grace`.
///
/// Connections are accepted at once; until `captioner` is ready, health is NOT_SERVING and requests are answered
/// UNAVAILABLE.
///
/// # Errors
/// Before the first connection is accepted; or, after all connections are closed, because `captioner` failed or an engine
/// stopped.
pub async fn serve<E: Into<Cause>>(
    sockets: Sockets,
    config: ServerConfig,
    metrics: Metrics,
    captioner: impl Future<Output = Result<Captioner, E>>,
    signals: ControlSignals<impl Future<Output = Duration>>,
) -> Result<(), ServeError> {
    let (phase, watcher) = watch::channel(Phase::Starting);
    let (api_keys, known_keys) = watch::channel(config.api_keys.clone());
    let tls = config.tls.clone().map(|files| Ok::<_, ConfigError>((watch::Sender::new(tls::load(&files)?), files)));
    let tls = tls.transpose()?.map(|(sender, files)| (files, sender));
    let closing = CancellationToken::new();
    log_address(sockets.main.local_addr()?, &config);
    let layer_state = LayerState::new(&config, &metrics, known_keys, closing.clone(), watcher.clone());
    let state = Arc::new(AppState::new(&config, metrics.clone(), watcher.clone(), closing.clone()));
    let listeners = Listeners::new(closing, config.limits, metrics);
    let routers = main_routers(&state, &watcher)?;
    let tls_config = tls.as_ref().map(|(_, config)| Tls::new(config.subscribe()));
    listeners.spawn(sockets.main, middleware_stack(&layer_state, routers), tls_config);
    if let Some(admin) = sockets.admin {
        let routers = admin_routers(&state, &watcher);
        listeners.spawn(admin, middleware_stack(&layer_state.for_admin(), routers), None);
    }
    let reloader = Reloader { key_source: config.key_source, api_keys, tls, state: state.clone() };
    let run = async {
        tokio::select! {
            delay = signals.shutdown => (delay, Ok(())),
            error = run_captioner(&state, captioner, &phase) => (Duration::ZERO, Err(error)),
        }
    };
    let (delay, outcome) = tokio::select! {
        ended = run => ended,
        () = reloader.run(&signals.reload) => (Duration::ZERO, Ok(())),
    };
    // The server is not ready but still accepts: load balancers stop sending with a delay.
    phase.send_replace(Phase::Terminating);
    info!(delay_s = delay.as_secs_f64(), grace_s = config.shutdown_grace.as_secs_f64(), "shutting down");
    sleep(delay).await;
    phase.send_replace(Phase::Draining);
    listeners.drain(config.shutdown_grace).await;
    info!("stopped");
    outcome
}

/// Serves the models when they are loaded. Ready when they cannot be loaded, or an engine stopped.
async fn run_captioner<E: Into<Cause>>(
    state: &AppState,
    captioner: impl Future<Output = Result<Captioner, E>>,
    phase: &watch::Sender<Phase>,
) -> ServeError {
    let captioner = match captioner.await {
        Ok(captioner) => state.set_captioner(captioner),
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

/// The routers of the main port.
fn main_routers(state: &Arc<AppState>, phase: &watch::Receiver<Phase>) -> Result<Routers, ServeError> {
    let grpc =
        |class: RouteClass| grpc::router(state.clone(), phase.clone(), class.max_body_bytes(state.max_body_bytes));
    Ok(Routers {
        rest: rest::router(state.clone()),
        grpc_inference: grpc(RouteClass::Inference)?,
        grpc_metadata: grpc(RouteClass::Metadata)?,
    })
}

/// The routers of the administrators' port: health and metrics.
fn admin_routers(state: &Arc<AppState>, phase: &watch::Receiver<Phase>) -> Routers {
    let grpc = grpc::health_router(phase.clone());
    Routers { rest: rest::admin_router(state.clone()), grpc_inference: grpc.clone(), grpc_metadata: grpc }
}

fn log_address(address: SocketAddr, config: &ServerConfig) {
    info!(%address, tls = config.tls.is_some(), "listening for REST and gRPC");
    let is_open = config.api_keys.is_empty() && config.tls.as_ref().is_none_or(|tls| tls.client_authorities.is_none());
    if is_open && !address.ip().is_loopback() {
        warn!(%address, "anyone who reaches this address can use the server: set --api-keys-file or BLIP_API_KEYS");
    }
}
