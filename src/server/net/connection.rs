//! One connection of HTTP/1.1 or HTTP/2, plain or in TLS, from its first byte to its last.
//!
//! Every wait on a peer has an end: silent and idle connections are closed, headers have a time and a size, and old
//! connections are told to come back on a new one.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
use tower::ServiceExt;
use tracing::debug;

use crate::config::limits::Limits;
use crate::server::{
    Application,
    net::{
        activity::{Activity, Idle, IdleClock, Sending, Stalled},
        listener::Signals,
    },
};

/// Headers of a request.
const MAX_HEADERS: usize = 100;
/// Between two looks at whether a connection is idle.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// HTTP/2 pings find peers that vanished.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves one connection to its end.
pub(crate) async fn drive(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    application: Application,
    limits: Limits,
    signals: Signals,
) {
    let activity = Arc::new(Activity::default());
    let service = {
        let activity = activity.clone();
        service_fn(move |request: Request<Incoming>| answer(application.clone(), activity.clone(), request))
    };
    let builder = builder(&limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut idle = IdleClock::new(activity, limits);
    let old = sleep(age(limits.connection_age).unwrap_or(Duration::MAX));
    let mut old = pin!(old);
    let mut ticks = interval(IDLE_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_closing = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(error, "connection ended");
                }
                return;
            }
            () = signals.draining.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = old.as_mut(), if !is_closing && !limits.connection_age.is_zero() => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = signals.closed.cancelled() => return,
            _ = ticks.tick() => match (idle.state(Instant::now()), idle.stalled(Instant::now())) {
                (_, Stalled::All) => {
                    debug!("connection closed: its peer takes no answers");
                    return;
                }
                (Idle::TooLong, _) => return,
                // The other requests of a stalled peer, which may be a proxy, are finished.
                (Idle::Long, _) | (_, Stalled::Some) if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                (Idle::No | Idle::Long, _) => {}
            },
        }
    }
}

/// A tenth more or less, so that the clients of a restarted server do not come back all at once.
fn age(age: Duration) -> Option<Duration> {
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

async fn answer(
    application: Application,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Sending>, Infallible> {
    activity.had_request.store(true, Ordering::Relaxed);
    let response = application.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| Sending::new(body, activity)))
}
