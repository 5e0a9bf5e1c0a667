//! One connection of HTTP/1.1 or HTTP/2, plain or in TLS, from its first byte to its last.
//!
//! Every wait for a client has an end: silent and idle connections are closed, headers are bounded in time and size, and
//! clients of old connections are asked to reconnect.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use crate::{
    config::limits::Limits,
    server::{
        middleware::stack::Application,
        net::idle::{Activity, IdleTracker, Idleness, InFlight, ResponseBody, Stall},
    },
};

/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 100;
/// Time between two checks of whether a connection is idle.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// HTTP/2 pings detect clients that are unreachable.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The stages of a shutdown, cancelled in this order.
#[derive(Clone)]
pub(crate) struct ShutdownTokens {
    /// Connections finish what is in flight and accept nothing new.
    pub(crate) draining: CancellationToken,
    /// The grace period is over: the deadline layer answers every request with UNAVAILABLE.
    pub(crate) closing: CancellationToken,
    /// Connections are dropped.
    pub(crate) closed: CancellationToken,
}

/// Serves one connection to its end.
pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    application: Application,
    limits: Limits,
    shutdown: ShutdownTokens,
) {
    let activity = Arc::new(Activity::default());
    let mut idle = IdleTracker::new(activity.clone(), limits);
    let service = service_fn(move |request| respond(application.clone(), activity.begin_request(), request));
    let builder = builder(&limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut max_age = pin!(sleep(jittered(limits.connection_age).unwrap_or(Duration::MAX)));
    let mut ticks = interval(IDLE_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_closing = false;
    loop {
        let close = tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(error, "connection ended");
                }
                return;
            }
            () = shutdown.draining.cancelled(), if !is_closing => true,
            () = max_age.as_mut(), if !is_closing && !limits.connection_age.is_zero() => true,
            () = shutdown.closed.cancelled() => return,
            _ = ticks.tick() => match (idle.idleness(Instant::now()), idle.stall(Instant::now())) {
                (_, Stall::Complete) => {
                    debug!("connection closed: its client takes no responses");
                    return;
                }
                (Idleness::Expired, _) => return,
                // A client with other requests in flight may be a proxy: they are finished.
                (idleness, stall) => idleness == Idleness::Idle || stall == Stall::Partial,
            },
        };
        if close && !is_closing {
            is_closing = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// The age ±10 %, so that the clients of a restarted server do not reconnect all at once; none for an age of zero.
fn jittered(age: Duration) -> Option<Duration> {
    (!age.is_zero()).then(|| age.mul_f64(rand::random_range(0.9..1.1)))
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(limits.max_header_bytes as usize)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .adaptive_window(true);
    builder
}

async fn respond(
    application: Application,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let response = application.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| ResponseBody::new(body, in_flight)))
}
