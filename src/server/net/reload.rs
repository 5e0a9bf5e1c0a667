//! Configuration that is read again while the server runs: keys and certificates when their files change, models too when
//! it is asked for (SIGHUP). What is wrong changes nothing and is logged.

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

/// Between two looks at the files.
const CHECK: Duration = Duration::from_secs(2);

/// What can be read again, and who is told.
pub(crate) struct Reloader {
    pub(crate) key_source: KeySource,
    pub(crate) api_keys: watch::Sender<ApiKeys>,
    pub(crate) tls: Option<(TlsFiles, watch::Sender<Arc<TlsConfig>>)>,
    pub(crate) state: Arc<AppState>,
}

impl Reloader {
    /// Until dropped. `asked` reads everything again, changed or not.
    pub(crate) async fn run(self, asked: &Notify) {
        let (mut keys, mut certificates) = (Watched::new(self.key_files()), Watched::new(self.tls_files()));
        let mut ticks = interval(CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let all = tokio::select! {
                () = asked.notified() => true,
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
        tell(
            &self.state,
            "keys",
            outcome.map(|keys| self.api_keys.send_modify(|known| *known = keys.carry_over_limits(known))),
        );
    }

    fn reload_certificates(&self) {
        if let Some((files, sender)) = &self.tls {
            tell(&self.state, "certificates", tls::load(files).map(|config| _ = sender.send_replace(config)));
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

/// Beside the rest: a model takes its time, and a key that is taken away must not be good for so long.
async fn reload_models(state: Arc<AppState>) {
    // Those that are being loaded may be older than the file.
    if state.phase.clone().wait_for(|phase| *phase != Phase::Starting).await.is_ok()
        && let Ok(captioner) = state.captioner()
    {
        tell(&state, "models", captioner.registry().reload().await);
    }
}

fn tell(state: &AppState, what: &'static str, outcome: Result<(), impl std::fmt::Display>) {
    state.metrics.record_reload(what, outcome.is_ok());
    match outcome {
        Ok(()) => info!(what, "read again"),
        Err(error) => error!(what, %error, "not read again, everything stays as it was"),
    }
}

/// Files, and what they were when they were last looked at.
struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Option<State>>,
}

/// A file that is written to or replaced gets another of these.
type State = (u64, u64, i64, i64);

impl Watched {
    fn new(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(|path| state(path)).collect();
        Self { files, seen }
    }

    fn has_changed(&mut self) -> bool {
        let now: Vec<_> = self.files.iter().map(|path| state(path)).collect();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

fn state(path: &Path) -> Option<State> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
