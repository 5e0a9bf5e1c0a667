//! Settings of the server: flags, each with an environment twin.
//!
//! Parsed once by clap into [`ServerArgs`], [`Limits`] and [`ImageConfig`]; past that nothing reads the environment. Settings of a model are in
//! the catalogue (`models.toml`).

pub mod api_keys;
pub mod catalogue;
pub mod fetch;
pub mod limits;

use std::{fmt, fs, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;
use url::Url;

use crate::config::{api_keys::ApiKeys, fetch::FetchConfig, limits::Limits};

/// Settings that cannot be used; the text names the setting.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file that a setting names cannot be read.
    #[error("{setting}: cannot read {path}: {source}")]
    Unreadable {
        /// The flag.
        setting: &'static str,
        /// As given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A value that is out of bounds.
    #[error("{setting}: {reason}")]
    Invalid {
        /// The flag.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// What `serve` is told; see `blip-serve serve --help`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Address for REST (HTTP/1.1, HTTP/2) and gRPC
    #[arg(long, env = "BLIP_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// A second, plaintext address with health and metrics only, without keys
    #[arg(long, env = "BLIP_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,

    /// File of API keys, one a line: the key, or what `blip-serve hash-key` gives; read again when it changes
    #[arg(long, env = "BLIP_API_KEYS_FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// API keys, separated by commas (the environment is safer than the command line)
    #[arg(long, env = "BLIP_API_KEYS", hide_env_values = true, value_delimiter = ',')]
    pub api_keys: Vec<Secret>,

    /// Certificate chain, PEM: the server then speaks TLS only. Read again when it changes
    #[arg(long, env = "BLIP_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, env = "BLIP_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Authorities, PEM, one of which must have signed a client's certificate; needs --admin-listen for the probes
    #[arg(long, env = "BLIP_TLS_CLIENT_CA", requires_all = ["tls_cert", "admin_listen"])]
    pub tls_client_ca: Option<PathBuf>,

    /// Seconds between SIGTERM and the end of accepting: not ready any more, so that balancers turn away first
    #[arg(long, env = "BLIP_DRAIN_DELAY", default_value = "2", value_parser = seconds)]
    pub drain_delay: Duration,

    /// Seconds that requests in flight get to finish after that
    #[arg(long, env = "BLIP_SHUTDOWN_GRACE", default_value = "30", value_parser = seconds)]
    pub shutdown_grace: Duration,

    /// Seconds in one run of a graph after which its model counts as dead, and the process as not live; 0: never
    #[arg(long, env = "BLIP_WATCHDOG", default_value = "120", value_parser = seconds)]
    pub watchdog: Duration,

    /// Answer GET /metrics without a key
    #[arg(long, env = "BLIP_OPEN_METRICS")]
    pub open_metrics: bool,

    /// Let clients load and unload models; without it only those with an API key may, or everyone if only this machine is listened to
    #[arg(long, env = "BLIP_MODEL_CONTROL")]
    pub model_control: bool,

    /// Name that GET /v2 gives; the default model's name if not set
    #[arg(long, env = "BLIP_SERVER_NAME")]
    pub server_name: Option<String>,

    /// Origins (scheme://host:port) whose web pages may call REST, separated by commas; * is every one
    #[arg(long, env = "BLIP_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<Origin>,

    #[allow(missing_docs, reason = "clap would print it")]
    #[command(flatten)]
    pub limits: Limits,
}

/// Settings of the server room, resolved.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What strangers may send.
    pub limits: Limits,
    /// Who may call; none: everyone.
    pub api_keys: ApiKeys,
    /// Where the keys come from, to read them again.
    pub key_source: KeySource,
    /// Certificates, if the port speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Bytes of an image inside a request.
    pub max_image_bytes: usize,
    /// For requests in flight, after the signal to stop.
    pub shutdown_grace: Duration,
    /// For one run of a graph.
    pub watchdog: Duration,
    /// Metrics need no key.
    pub open_metrics: bool,
    /// Clients may load and unload models.
    pub model_control: bool,
    /// Name of the server in its metadata.
    pub server_name: String,
    /// Web pages that may call; empty: none.
    pub cors_origins: Vec<Origin>,
}

/// Where API keys come from.
#[derive(Clone, Debug)]
pub struct KeySource {
    keys: Vec<Secret>,
    /// The file of keys, if there is one.
    pub file: Option<PathBuf>,
    rate: f64,
}

/// What TLS needs, as PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who must have signed a client's certificate.
    pub client_authorities: Option<PathBuf>,
}

/// How images get in: the same flags for `serve` and `caption`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageConfig {
    /// Fetch image URLs from loopback and private addresses too
    #[arg(long, env = "BLIP_ALLOW_PRIVATE_NETWORKS")]
    pub allow_private_networks: bool,

    /// Largest image file, bytes
    #[arg(long, env = "BLIP_MAX_IMAGE_BYTES", default_value_t = 20 << 20)]
    pub max_image_bytes: usize,

    /// Most pixels (width x height) of an image
    #[arg(long, env = "BLIP_MAX_IMAGE_PIXELS", default_value_t = 89_478_485)]
    pub max_image_pixels: u64,

    #[allow(missing_docs, reason = "clap would print it")]
    #[command(flatten)]
    pub fetch: FetchConfig,
}

/// Where web pages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`.
    Any,
    /// Scheme, host and port, as browsers write them.
    One(String),
}

/// A text that never gets into a log.
#[derive(Clone)]
pub struct Secret(String);

impl ServerArgs {
    /// What the server room needs, with the keys read. A server without a name is called after its default model:
    /// importers use the name in the paths that follow.
    ///
    /// # Errors
    /// The file of keys cannot be read, or a line of it is wrong.
    pub fn resolve(self, image: &ImageConfig, default_model: &str) -> Result<ServerConfig, ConfigError> {
        let key_source = KeySource { keys: self.api_keys, file: self.api_keys_file, rate: self.limits.rate_limit };
        let api_keys = key_source.load()?;
        let tls = self.tls_cert.zip(self.tls_key).map(|(certificates, key)| TlsFiles {
            certificates,
            key,
            client_authorities: self.tls_client_ca,
        });
        Ok(ServerConfig {
            limits: self.limits,
            model_control: self.model_control || !api_keys.is_empty() || self.listen.ip().is_loopback(),
            api_keys,
            key_source,
            tls,
            max_image_bytes: image.max_image_bytes,
            shutdown_grace: self.shutdown_grace,
            watchdog: self.watchdog,
            open_metrics: self.open_metrics,
            server_name: self.server_name.unwrap_or_else(|| default_model.to_owned()),
            cors_origins: self.cors_origins,
        })
    }
}

impl KeySource {
    /// Reads the keys.
    ///
    /// # Errors
    /// The file cannot be read or holds no key, or a line is wrong.
    pub fn load(&self) -> Result<ApiKeys, ConfigError> {
        let mut text = self.keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join("\n");
        if self.keys.iter().any(|key| key.0.trim().is_empty() || key.0.contains('\n')) {
            let reason = "a key is empty, or two lines".to_owned();
            return Err(ConfigError::Invalid { setting: "--api-keys / BLIP_API_KEYS", reason });
        }
        let mut setting = "--api-keys / BLIP_API_KEYS";
        if let Some(path) = &self.file {
            setting = "--api-keys-file";
            let file = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                setting,
                path: path.clone(),
                source,
            })?;
            if file.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
                return Err(ConfigError::Invalid { setting, reason: "the file holds no key".into() });
            }
            // The file first: the numbers of its lines are those that an error names.
            text = format!("{file}\n{text}");
        }
        ApiKeys::parse(text.lines(), self.rate).map_err(|reason| ConfigError::Invalid { setting, reason })
    }
}

/// A duration as a number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    // A year: longer is a mistake, and would overflow when added to a clock.
    if (0.0..=31_536_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is not between 0 and 31536000 seconds"))
    }
}

#[cfg(test)]
impl ImageConfig {
    /// As the command line would give it.
    pub(crate) fn of_flags(flags: &[&str]) -> Self {
        use clap::{Args, Command, FromArgMatches};
        let command = Self::augment_args(Command::new("test").no_binary_name(true));
        Self::from_arg_matches(&command.get_matches_from(flags)).unwrap()
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = Url::parse(text).map(|url| url.origin().ascii_serialization());
        match origin {
            Ok(origin) if origin == text => Ok(Self::One(origin)),
            _ => Err(format!("'{text}' is no origin such as https://example.com")),
        }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::from("key".to_string())), "***");
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        assert_eq!("*".parse(), Ok(Origin::Any));
        assert_eq!("http://localhost:3000".parse(), Ok(Origin::One("http://localhost:3000".into())));
        for bad in ["example.com", "https://example.com/", "https://example.com:443", "https://Example.com", "null", ""]
        {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err() && seconds("NaN").is_err() && seconds("1e99").is_err() && seconds("x").is_err());
    }
}
