//! Reloading while the server runs: keys and certificates when their files change, models too on SIGHUP. A file that
//! cannot be used is logged and changes nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig as TlsConfig;
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use crate::config::{KeySource, TlsFiles, api_keys::ApiKeys};
use crate::server::{health::Phase, net::tls, state::AppState};

/// Time between two checks of the files.
const FILE_CHECK: Duration = Duration::from_secs(2);

/// The sources that are reloaded, and the channels to their users.
pub(crate) struct Reloader {
    pub(crate) key_source: KeySource,
    pub(crate) api_keys: watch::Sender<ApiKeys>,
    pub(crate) tls: Option<(TlsFiles, watch::Sender<Arc<TlsConfig>>)>,
    pub(crate) state: Arc<AppState>,
}

impl Reloader {
    /// Runs until it is dropped. A notification reloads everything, changed or not.
    pub(crate) async fn run(self, reload_all: &Notify) {
        let (mut keys, mut certificates) = (WatchedFiles::new(self.key_files()), WatchedFiles::new(self.tls_files()));
        let mut ticks = interval(FILE_CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let all = tokio::select! {
                () = reload_all.notified() => true,
                _ = ticks.tick() => false,
            };
            if keys.has_changed() || all {
                self.reload_keys();
            }
            if certificates.has_changed() || all {
                self.reload_certificates();
            }
            if all {
                tokio::spawn(reload_models(self.state.clone()));
            }
        }
    }

    fn reload_keys(&self) {
        let outcome = self.key_source.load();
        report(
            &self.state,
            "keys",
            outcome.map(|keys| self.api_keys.send_modify(|known| *known = keys.carry_over_limits(known))),
        );
    }

    fn reload_certificates(&self) {
        if let Some((files, sender)) = &self.tls {
            report(&self.state, "certificates", tls::load(files).map(|config| _ = sender.send_replace(config)));
        }
    }

    fn key_files(&self) -> Vec<PathBuf> {
        self.key_source.file.iter().cloned().collect()
    }

    fn tls_files(&self) -> Vec<PathBuf> {
        let Some((files, _)) = &self.tls else { return vec![] };
        [&files.certificates, &files.key].into_iter().chain(&files.client_authorities).cloned().collect()
    }
}

/// Reloads the models. It runs in a separate task, as it takes long and a revoked key must not stay valid meanwhile.
async fn reload_models(state: Arc<AppState>) {
    // Models that are still loading may have been read from an older file.
    if state.phase.clone().wait_for(|phase| *phase != Phase::Starting).await.is_ok()
        && let Ok(captioner) = state.captioner()
    {
        report(&state, "models", captioner.registry().reload().await);
    }
}

fn report(state: &AppState, what: &'static str, outcome: Result<(), impl std::fmt::Display>) {
    state.metrics.record_reload(what, outcome.is_ok());
    match outcome {
        Ok(()) => info!(what, "reloaded"),
        Err(error) => error!(what, %error, "reload failed, nothing changed"),
    }
}

/// Files, and their fingerprints at the last check.
struct WatchedFiles {
    files: Vec<PathBuf>,
    seen: Vec<Option<FileFingerprint>>,
}

/// Differs after a file was written to or replaced.
#[derive(PartialEq)]
struct FileFingerprint {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl WatchedFiles {
    fn new(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(|path| fingerprint(path)).collect();
        Self { files, seen }
    }

    fn has_changed(&mut self) -> bool {
        let current: Vec<_> = self.files.iter().map(|path| fingerprint(path)).collect();
        let changed = current != self.seen;
        self.seen = current;
        changed
    }
}

fn fingerprint(path: &Path) -> Option<FileFingerprint> {
    let file = fs::metadata(path).ok()?;
    Some(FileFingerprint {
        inode: file.ino(),
        bytes: file.len(),
        modified_s: file.mtime(),
        modified_ns: file.mtime_nsec(),
    })
}
