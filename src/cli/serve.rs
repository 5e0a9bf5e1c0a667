//! `blip-serve serve`: the service.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task,
};
use tracing::info;

use crate::cli::{CommandError, ModelArgs, select};
use crate::{
    captioner::Captioner,
    config::{ImageConfig, ServerArgs, TraceConfig, catalogue::Catalogue},
    error::Cause,
    observability::{self, prometheus::Metrics},
    registry::{Registry, Shared},
    server::{self, ControlSignals, Sockets},
};
use generation::GenerationLimits;

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
        let served = runtime.block_on(self.serve());
        // Work that the grace period did not see the end of must not keep the process.
        runtime.shutdown_background();
        collector.close();
        served?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(self) -> Result<(), CommandError> {
        // The signals are ours from here on: one that comes while the models load ends the process cleanly.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (mut again, mut hang_up) = (signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
        let delay = self.server.drain_delay;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {
                    info!("SIGTERM: draining");
                    delay
                }
                // Somebody at a terminal: no balancer has to turn away.
                _ = interrupt.recv() => {
                    info!("interrupted: draining");
                    Duration::ZERO
                }
            }
        };
        let reload = Arc::new(Notify::new());
        let asked = reload.clone();
        let reading_again = async move {
            while hang_up.recv().await.is_some() {
                info!("SIGHUP: reading keys, certificates and models again");
                asked.notify_one();
            }
        };
        let given_up = async move {
            again.recv().await;
            again.recv().await;
        };
        tokio::select! {
            served = self.run_server(ControlSignals { shutdown, reload }) => served,
            () = reading_again => Ok(()),
            () = given_up => Err("interrupted again: requests in flight are lost".into()),
        }
    }

    async fn run_server(self, signals: ControlSignals<impl Future<Output = Duration>>) -> Result<(), CommandError> {
        let catalogue = select::catalogue(&self.model_args.models)?;
        let config = self.server.clone().resolve(&self.image, &catalogue.default)?;
        let bind = |flag: &'static str, address| async move {
            TcpListener::bind(address).await.map_err(|error| format!("{flag} {address}: {error}"))
        };
        let main = bind("--listen", self.server.listen).await?;
        let admin = match self.server.admin_listen {
            Some(address) => Some(bind("--admin-listen", address).await?),
            None => None,
        };
        let metrics = Metrics::new()?;
        let (model_args, image, limits, counted) =
            (self.model_args, self.image, self.server.limits.generation(), metrics.clone());
        let load = async move || load(&catalogue, &model_args, &image, (limits, counted)).await;
        // Checksums and graphs keep a thread busy for a while: not one that answers probes.
        let loading = task::spawn_blocking(move || Handle::current().block_on(load()));
        let captioner = async { loading.await? };
        Ok(server::serve(Sockets { main, admin }, config, metrics, captioner, signals).await?)
    }
}

async fn load(
    catalogue: &Catalogue,
    model_args: &ModelArgs,
    image: &ImageConfig,
    (limits, metrics): (GenerationLimits, Metrics),
) -> Result<Captioner, Cause> {
    let runtime = model_args.runtime()?;
    metrics.set_build(runtime.version());
    info!("jpeg: {}", image_processor::JPEG_CODE);
    let shared = Shared { runtime, metrics, limits, catalogue: Some(model_args.models.clone()) };
    let registry = Registry::load(catalogue, shared).await?;
    Captioner::new(registry, image)
}
