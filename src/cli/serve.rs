//! `blip-serve serve`: starts the server, loads the models and handles signals.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task,
};
use tracing::info;

use crate::cli::{
    command::{CommandError, ModelArgs},
    select,
};
use crate::{
    captioner::Captioner,
    config::{ImageConfig, ServerArgs, TraceConfig, catalogue::Catalogue},
    error::Cause,
    observability::{self, prometheus::Metrics},
    registry::{Registry, Shared},
    server::{self, ControlSignals, Sockets},
};

/// Serve REST and gRPC on one port.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    image: ImageConfig,
    #[command(flatten)]
    model_args: ModelArgs,
    #[command(flatten)]
    traces: TraceConfig,
}

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let collector = observability::init_service(&self.model_args.log, &self.traces)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(self.serve());
        // Work that is unfinished after the grace period must not keep the process alive.
        runtime.shutdown_background();
        collector.close();
        result?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(self) -> Result<(), CommandError> {
        // The handlers are installed first: a signal while the models load ends the process gracefully, too.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (mut second_interrupt, mut hang_up) = (signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
        let drain_delay = self.server.drain_delay;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {
                    info!("SIGTERM: draining");
                    drain_delay
                }
                // An interrupt comes from a terminal: there is no load balancer to wait for.
                _ = interrupt.recv() => {
                    info!("SIGINT: draining");
                    Duration::ZERO
                }
            }
        };
        let reload = Arc::new(Notify::new());
        let reload_requested = reload.clone();
        let forward_reloads = async move {
            while hang_up.recv().await.is_some() {
                info!("SIGHUP: reloading keys, certificates and models");
                reload_requested.notify_one();
            }
        };
        let interrupted_twice = async move {
            second_interrupt.recv().await;
            second_interrupt.recv().await;
        };
        tokio::select! {
            result = self.run_server(ControlSignals { shutdown, reload }) => result,
            () = forward_reloads => Ok(()),
            () = interrupted_twice => Err("interrupted again: requests in flight are aborted".into()),
        }
    }

    async fn run_server(self, signals: ControlSignals<impl Future<Output = Duration>>) -> Result<(), CommandError> {
        let catalogue = select::catalogue(&self.model_args.models)?;
        let config = self.server.clone().resolve(&self.image, &catalogue.default)?;
        let main = bind("--listen", self.server.listen).await?;
        let admin = match self.server.admin_listen {
            Some(address) => Some(bind("--admin-listen", address).await?),
            None => None,
        };
        let metrics = Metrics::new()?;
        let recorded = metrics.clone();
        // On a thread of the blocking pool: checksums and graphs take long, and must not delay the probes.
        let loading =
            task::spawn_blocking(move || Handle::current().block_on(self.load_captioner(&catalogue, recorded)));
        let captioner = async { loading.await? };
        Ok(server::serve(Sockets { main, admin }, config, metrics, captioner, signals).await?)
    }

    async fn load_captioner(&self, catalogue: &Catalogue, metrics: Metrics) -> Result<Captioner, Cause> {
        let runtime = self.model_args.runtime()?;
        metrics.set_build(runtime.version());
        info!("jpeg: {}", image_processor::JPEG_CODE);
        let limits = self.server.limits.generation();
        let shared = Shared { runtime, metrics, limits, catalogue: Some(self.model_args.models.clone()) };
        let registry = Registry::load(catalogue, shared).await?;
        Captioner::new(registry, &self.image)
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{flag} {address}: {error}"))
}
