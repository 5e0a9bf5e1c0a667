//! One connection of HTTP/1.1 or h2c, from its first byte to its last.
//!
//! Every wait on a peer has an end: silent and idle connections are closed, headers have a time and a size.

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
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};
use tower::ServiceExt;
use tracing::debug;

use super::{
    Application,
    activity::{Activity, IDLE_TIME, Idle, IdleClock, Sending},
    listen::Signals,
};

/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Bytes and number of a request's headers.
const MAX_HEADER_BYTES: u32 = 32 << 10;
const MAX_HEADERS: usize = 100;
/// Between two looks at whether a connection is idle.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// HTTP/2 pings find peers that vanished.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves one connection to its end.
pub(super) async fn drive(stream: TcpStream, application: Application, signals: Signals) {
    // Answers are small and complete: waiting for more to send gains nothing.
    stream.set_nodelay(true).ok();
    let activity = Arc::new(Activity::default());
    let service = {
        let activity = activity.clone();
        service_fn(move |request: Request<Incoming>| answer(application.clone(), activity.clone(), request))
    };
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut idle = IdleClock::new(activity);
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
            () = signals.closed.cancelled() => return,
            _ = ticks.tick() => match idle.state() {
                _ if idle.is_stalled() => {
                    debug!("connection closed: its peer takes no answers");
                    return;
                }
                Idle::Long if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                Idle::No | Idle::Long => {}
                Idle::TooLong => return,
            },
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME)
        .max_buf_size(MAX_HEADER_BYTES as usize)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
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
