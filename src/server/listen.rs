//! Listening sockets: accepting connections, and closing them all in order at a shutdown.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{Application, connection::drive};

/// Open connections on one listener; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 4096;
/// After the grace of a shutdown, for the last answers to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All listening sockets and the connections they made.
pub(super) struct Listeners {
    connections: TaskTracker,
    signals: Signals,
}

/// What a connection is told, in this order.
#[derive(Clone)]
pub(super) struct Signals {
    /// Finish what is in flight, take nothing new.
    pub(super) draining: CancellationToken,
    /// Every request answers UNAVAILABLE now; the deadline layer listens.
    closing: CancellationToken,
    /// Drop everything.
    pub(super) closed: CancellationToken,
}

impl Listeners {
    /// None yet. `closing` is cancelled when the grace of a shutdown is over.
    pub(super) fn new(closing: CancellationToken) -> Self {
        let signals = Signals { draining: CancellationToken::new(), closing, closed: CancellationToken::new() };
        Self { connections: TaskTracker::new(), signals }
    }

    /// Accepts connections for `application` until [`Listeners::drain`].
    pub(super) fn spawn(&self, listener: TcpListener, application: Application) {
        let (connections, signals) = (self.connections.clone(), self.signals.clone());
        self.connections.spawn(accept(listener, application, connections, signals));
    }

    /// Stops accepting, waits up to `grace` for what is in flight, then closes the rest.
    pub(super) async fn drain(self, grace: Duration) {
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

async fn accept(listener: TcpListener, application: Application, connections: TaskTracker, signals: Signals) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = async { (places.clone().acquire_owned().await, listener.accept().await) } => accepted,
            () = signals.draining.cancelled() => return,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let connection = drive(stream, application.clone(), signals.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
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
