//! `blip-serve serve`: the service.

use std::process::ExitCode;

use clap::Args;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    task,
};
use tracing::info;

use super::{CommandError, ModelArgs};
use crate::{
    captioner::Captioner,
    catalogue::Catalogue,
    config::{ImageConfig, ServerArgs},
    error::Cause,
    registry::Registry,
    server,
    telemetry::{self, Verbosity},
};

/// Serve REST and gRPC on one port.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    model_args: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    image: ImageConfig,
}

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        telemetry::init(&self.model_args.log, Verbosity::Info)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve())?;
        // Work that the grace period did not see the end of must not keep the process.
        runtime.shutdown_background();
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(self) -> Result<(), CommandError> {
        // The signals are ours from here on: one that comes while the models load ends the process cleanly.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: draining"),
                _ = interrupt.recv() => info!("interrupted: draining"),
            }
        };
        let catalogue = Catalogue::load(&self.model_args.models)?;
        let config = self.server.clone().resolve(&self.image, &catalogue.default)?;
        let bind = |flag: &'static str, address| async move {
            TcpListener::bind(address).await.map_err(|error| format!("{flag} {address}: {error}"))
        };
        let listener = bind("--listen", self.server.listen).await?;
        let admin = match self.server.admin_listen {
            Some(address) => Some(bind("--admin-listen", address).await?),
            None => None,
        };
        let (model_args, image) = (self.model_args, self.image);
        // Checksums and graphs keep a thread busy for a while: not one that answers probes.
        let loading = task::spawn_blocking(move || Handle::current().block_on(load(&catalogue, &model_args, &image)));
        let captioner = async { loading.await? };
        Ok(server::serve(listener, admin, config, captioner, stop).await?)
    }
}

async fn load(catalogue: &Catalogue, model_args: &ModelArgs, image: &ImageConfig) -> Result<Captioner, Cause> {
    let runtime = model_args.runtime()?;
    let registry = Registry::load(catalogue, &runtime).await?;
    Captioner::new(registry, image)
}
