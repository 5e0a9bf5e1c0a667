//! Settings of the server: flags, each with an environment twin.
//!
//! Parsed once by clap into [`ServerArgs`] and [`ImageConfig`]; past that nothing reads the environment. Settings of a model are in
//! the catalogue (`models.toml`).

use std::{fmt, fs, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use url::Url;

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

    /// A second, plaintext address with health routes only
    #[arg(long, env = "BLIP_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,

    /// File with one API key a line; empty lines and lines that begin with # are skipped
    #[arg(long, env = "BLIP_API_KEYS_FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// API keys, separated by commas (the environment is safer than the command line)
    #[arg(long, env = "BLIP_API_KEYS", hide_env_values = true, value_delimiter = ',')]
    pub api_keys: Vec<Secret>,

    /// Largest request body or message, bytes
    #[arg(long, env = "BLIP_MAX_BODY_BYTES", default_value_t = 32 << 20)]
    pub max_body_bytes: usize,

    /// Requests in the house at most; one more is answered 429 / RESOURCE_EXHAUSTED
    #[arg(long, env = "BLIP_QUEUE_CAPACITY", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub queue_capacity: u32,

    /// Seconds that requests in flight get to finish after SIGTERM
    #[arg(long, env = "BLIP_SHUTDOWN_GRACE", default_value = "30", value_parser = seconds)]
    pub shutdown_grace: Duration,

    /// Seconds after which a request is given up, unless the client's own deadline is shorter
    #[arg(long, env = "BLIP_REQUEST_TIMEOUT", default_value = "120", value_parser = seconds)]
    pub request_timeout: Duration,

    /// Name that GET /v2 gives; the default model's name if not set
    #[arg(long, env = "BLIP_SERVER_NAME")]
    pub server_name: Option<String>,

    /// Origins (scheme://host:port) whose web pages may call REST, separated by commas; * is every one
    #[arg(long, env = "BLIP_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<Origin>,
}

/// Settings of the server room, resolved.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Who may call; empty: everyone.
    pub api_keys: ApiKeys,
    /// Bytes of a REST body or a gRPC message.
    pub max_body_bytes: usize,
    /// Bytes of an image inside a request.
    pub max_image_bytes: usize,
    /// Requests admitted at the same time.
    pub queue_capacity: usize,
    /// For requests in flight, after the signal to stop.
    pub shutdown_grace: Duration,
    /// Longest time for a request.
    pub request_timeout: Duration,
    /// Name of the server in its metadata.
    pub server_name: String,
    /// Web pages that may call; empty: none.
    pub cors_origins: Vec<Origin>,
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

    /// Seconds that fetching an image URL may take
    #[arg(long, env = "BLIP_FETCH_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub fetch_timeout: Duration,
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

/// The API keys of the server, kept as digests.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    digests: Vec<[u8; 32]>,
}

impl ServerArgs {
    /// What the server room needs, with the keys read. A server without a name is called after its default model:
    /// importers use the name in the paths that follow.
    ///
    /// # Errors
    /// The file of keys cannot be read, or a key is empty or has white space in it.
    pub fn resolve(self, image: &ImageConfig, default_model: &str) -> Result<ServerConfig, ConfigError> {
        Ok(ServerConfig {
            api_keys: self.load_api_keys()?,
            max_body_bytes: self.max_body_bytes,
            max_image_bytes: image.max_image_bytes,
            queue_capacity: self.queue_capacity as usize,
            shutdown_grace: self.shutdown_grace,
            request_timeout: self.request_timeout,
            server_name: self.server_name.unwrap_or_else(|| default_model.to_owned()),
            cors_origins: self.cors_origins,
        })
    }

    fn load_api_keys(&self) -> Result<ApiKeys, ConfigError> {
        let mut keys: Vec<String> = self.api_keys.iter().map(|key| key.0.clone()).collect();
        if let Some(path) = &self.api_keys_file {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                setting: "--api-keys-file",
                path: path.clone(),
                source,
            })?;
            keys.extend(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(String::from));
            if keys.is_empty() {
                let reason = "the file holds no key".into();
                return Err(ConfigError::Invalid { setting: "--api-keys-file", reason });
            }
        }
        if keys.iter().any(|key| key.is_empty() || key.chars().any(char::is_whitespace)) {
            let reason = "a key is empty or has white space in it".into();
            return Err(ConfigError::Invalid { setting: "--api-keys-file / BLIP_API_KEYS", reason });
        }
        Ok(ApiKeys::new(&keys))
    }
}

impl ApiKeys {
    /// From the keys themselves.
    pub fn new<K: AsRef<str>>(keys: &[K]) -> Self {
        Self { digests: keys.iter().map(|key| Sha256::digest(key.as_ref()).into()).collect() }
    }

    /// True if no key was set: then every client may call.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether `key` is one of them, in a time that does not depend on how much of it is right.
    pub fn contains(&self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        // Every key is looked at, whatever the ones before it gave.
        self.digests.iter().fold(false, |found, known| found | bool::from(known.ct_eq(&digest)))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    // A year: longer is a mistake, and would overflow when added to a clock.
    if (0.0..=31_536_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is not between 0 and 31536000 seconds"))
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
    fn knows_its_keys_and_no_others() {
        let keys = ApiKeys::new(&["alpha", "beta"]);
        assert!(keys.contains("alpha") && keys.contains("beta"));
        assert!(!keys.contains("alph") && !keys.contains("") && !keys.contains("ALPHA"));
        assert!(!ApiKeys::default().contains(""));
    }

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
