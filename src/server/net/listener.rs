//! Listening sockets: accepting connections, and closing them all in order at a shutdown.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    config::limits::Limits,
    observability::prometheus::Metrics,
    server::{
        middleware::stack::Application,
        net::{
            connection::{ShutdownTokens, serve_connection},
            tls::Tls,
        },
    },
};

/// Time between the last responses after the grace period of a shutdown and dropping their connections.
const FORCE_CLOSE_DELAY: Duration = Duration::from_millis(500);
/// Pause before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All listening sockets and their connections.
pub(crate) struct Listeners {
    connections: TaskTracker,
    shutdown: ShutdownTokens,
    limits: Limits,
    metrics: Metrics,
}

impl Listeners {
    /// Creates listeners without a socket. `closing` is cancelled when the grace period of a shutdown is over.
    pub(crate) fn new(closing: CancellationToken, limits: Limits, metrics: Metrics) -> Self {
        let shutdown = ShutdownTokens { draining: CancellationToken::new(), closing, closed: CancellationToken::new() };
        Self { connections: TaskTracker::new(), shutdown, limits, metrics }
    }

    /// Accepts connections for `application` until [`Listeners::drain`]; in TLS, if it is given.
    pub(crate) fn spawn(&self, socket: TcpListener, application: Application, tls: Option<Tls>) {
        let listener = Listener {
            application,
            tls,
            connections: self.connections.clone(),
            shutdown: self.shutdown.clone(),
            limits: self.limits,
            metrics: self.metrics.clone(),
        };
        self.connections.spawn(listener.accept(socket));
    }

    /// Stops accepting, waits up to `grace` for requests in flight, then closes the remaining connections.
    pub(crate) async fn drain(self, grace: Duration) {
        self.connections.close();
        self.shutdown.draining.cancel();
        if timeout(grace, self.connections.wait()).await.is_ok() {
            return;
        }
        warn!(connections = self.connections.len(), "shutdown grace is over, closing the remaining connections");
        self.shutdown.closing.cancel();
        if timeout(FORCE_CLOSE_DELAY, self.connections.wait()).await.is_err() {
            self.shutdown.closed.cancel();
            self.connections.wait().await;
        }
    }
}

/// One listening socket.
#[derive(Clone)]
struct Listener {
    application: Application,
    tls: Option<Tls>,
    connections: TaskTracker,
    shutdown: ShutdownTokens,
    limits: Limits,
    metrics: Metrics,
}

impl Listener {
    async fn accept(self, socket: TcpListener) {
        let most = self.limits.connections();
        if most < self.limits.max_connections as usize {
            warn!(most, "fewer connections than --max-connections: the process may not open more files");
        }
        let permits = Arc::new(Semaphore::new(most));
        loop {
            let accepted = tokio::select! {
                accepted = async { (permits.clone().acquire_owned().await, socket.accept().await) } => accepted,
                () = self.shutdown.draining.cancelled() => return,
            };
            match accepted {
                (Ok(permit), Ok((stream, peer))) => {
                    self.connections.spawn(self.clone().serve(stream, peer, permit));
                }
                (_, Err(error)) => {
                    debug!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
                // The semaphore is never closed.
                (Err(_), _) => return,
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        // Responses are complete when they are written: waiting for more to send only delays them.
        stream.set_nodelay(true).ok();
        self.metrics.accepted.inc();
        let _open = GaugeGuard::new(&self.metrics.connections);
        let Some(tls) = &self.tls else {
            return serve_connection(stream, self.application, self.limits, self.shutdown).await;
        };
        let handshake = tokio::select! {
            handshake = timeout(self.limits.header_timeout, tls.accept(stream)) => handshake,
            () = self.shutdown.draining.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => serve_connection(stream, self.application, self.limits, self.shutdown).await,
            Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => debug!(%peer, "TLS handshake timed out"),
        }
    }
}

/// Adds one to a gauge until it is dropped.
struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
