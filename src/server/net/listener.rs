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

use crate::server::{
    Application,
    net::{connection::drive, tls::Tls},
};
use crate::{config::limits::Limits, observability::prometheus::Metrics};

/// After the grace of a shutdown, for the last answers to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All listening sockets and the connections they made.
pub(crate) struct Listeners {
    connections: TaskTracker,
    signals: Signals,
    limits: Limits,
    metrics: Metrics,
}

/// What a connection is told, in this order.
#[derive(Clone)]
pub(crate) struct Signals {
    /// Finish what is in flight, take nothing new.
    pub(crate) draining: CancellationToken,
    /// Every request answers UNAVAILABLE now; the deadline layer listens.
    closing: CancellationToken,
    /// Drop everything.
    pub(crate) closed: CancellationToken,
}

impl Listeners {
    /// None yet. `closing` is cancelled when the grace of a shutdown is over.
    pub(crate) fn new(closing: CancellationToken, limits: Limits, metrics: Metrics) -> Self {
        let signals = Signals { draining: CancellationToken::new(), closing, closed: CancellationToken::new() };
        Self { connections: TaskTracker::new(), signals, limits, metrics }
    }

    /// Accepts connections for `application` until [`Listeners::drain`]; in TLS, if it is given.
    pub(crate) fn spawn(&self, listener: TcpListener, application: Application, tls: Option<Tls>) {
        let door = Door {
            application,
            tls,
            connections: self.connections.clone(),
            signals: self.signals.clone(),
            limits: self.limits,
            metrics: self.metrics.clone(),
        };
        self.connections.spawn(door.accept(listener));
    }

    /// Stops accepting, waits up to `grace` for what is in flight, then closes the rest.
    pub(crate) async fn drain(self, grace: Duration) {
        self.connections.close();
        self.signals.draining.cancel();
        if timeout(grace, self.connections.wait()).await.is_ok() {
            return;
        }
        warn!(connections = self.connections.len(), "the grace is over, closing what is left");
        self.signals.closing.cancel();
        if timeout(LAST_WORDS, self.connections.wait()).await.is_err() {
            self.signals.closed.cancel();
            self.connections.wait().await;
        }
    }
}

/// One listening socket.
#[derive(Clone)]
struct Door {
    application: Application,
    tls: Option<Tls>,
    connections: TaskTracker,
    signals: Signals,
    limits: Limits,
    metrics: Metrics,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let most = self.limits.connections();
        if most < self.limits.max_connections as usize {
            warn!(most, "fewer connections than --max-connections: the process may not open more files");
        }
        let places = Arc::new(Semaphore::new(most));
        loop {
            let accepted = tokio::select! {
                accepted = async { (places.clone().acquire_owned().await, listener.accept().await) } => accepted,
                () = self.signals.draining.cancelled() => return,
            };
            match accepted {
                (Ok(place), Ok((stream, peer))) => {
                    self.connections.spawn(self.clone().serve(stream, peer, place));
                }
                (_, Err(error)) => {
                    debug!(%error, "could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => return,
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, _place: OwnedSemaphorePermit) {
        // Answers are small and complete: waiting for more to send gains nothing.
        stream.set_nodelay(true).ok();
        self.metrics.accepted.inc();
        let _counted = Counted::new(&self.metrics.connections);
        let Some(tls) = &self.tls else {
            return drive(stream, self.application, self.limits, self.signals).await;
        };
        let shaken = tokio::select! {
            shaken = timeout(self.limits.header_timeout, tls.accept(stream)) => shaken,
            () = self.signals.draining.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => drive(stream, self.application, self.limits, self.signals).await,
            Ok(Err(error)) => debug!(%peer, %error, "no TLS"),
            Err(_) => debug!(%peer, "TLS took too long"),
        }
    }
}

/// Counts itself as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
