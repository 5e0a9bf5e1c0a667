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

use super::{house::House, tls};
use crate::{
    api_keys::ApiKeys,
    config::{KeySource, TlsFiles},
};

/// Between two looks at the files.
const CHECK: Duration = Duration::from_secs(2);

/// What can be read again, and who is told.
pub(super) struct Reloader {
    pub(super) key_source: KeySource,
    pub(super) api_keys: watch::Sender<ApiKeys>,
    pub(super) tls: Option<(TlsFiles, watch::Sender<Arc<TlsConfig>>)>,
    pub(super) house: Arc<House>,
}

impl Reloader {
    /// Until dropped. `asked` reads everything again, changed or not.
    pub(super) async fn run(self, asked: &Notify) {
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
                self.reload_models().await;
            }
        }
    }

    fn reload_keys(&self) {
        let outcome = self.key_source.load();
        self.tell("keys", outcome.map(|keys| self.api_keys.send_modify(|known| *known = keys.following(known))));
    }

    fn reload_certificates(&self) {
        if let Some((files, sender)) = &self.tls {
            self.tell("certificates", tls::load(files).map(|config| _ = sender.send_replace(config)));
        }
    }

    async fn reload_models(&self) {
        // Those that are still loading are read now anyway.
        if let Ok(captioner) = self.house.captioner() {
            self.tell("models", captioner.registry().reload().await);
        }
    }

    fn tell(&self, what: &'static str, outcome: Result<(), impl std::fmt::Display>) {
        self.house.metrics.reloaded(what, outcome.is_ok());
        match outcome {
            Ok(()) => info!(what, "read again"),
            Err(error) => error!(what, %error, "not read again, everything stays as it was"),
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
