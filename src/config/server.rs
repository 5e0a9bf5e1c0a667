//! Settings of the server: as clap parses them, and resolved with the API keys read.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use url::Url;

use crate::config::{
    api_keys::ApiKeys,
    error::ConfigError,
    image::ImageConfig,
    key_source::{KeySource, Secret},
    limits::Limits,
    parse::seconds,
};

/// The flags of `serve`; see `blip-serve serve --help`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct ServerArgs {
    /// Address and port for REST (HTTP/1.1, HTTP/2) and gRPC
    #[arg(long, env = "BLIP_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Second, plaintext address for health and metrics only; it requires no API key
    #[arg(long, env = "BLIP_ADMIN_LISTEN", value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,

    /// Server name in GET /v2; defaults to the name of the default model
    #[arg(long, env = "BLIP_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,

    /// Seconds between SIGTERM and closing the listener; meanwhile the service is not ready, so that load balancers
    /// stop sending requests
    #[arg(long, env = "BLIP_DRAIN_DELAY", value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub drain_delay: Duration,

    /// Seconds that in-flight requests may take to finish after the drain delay
    #[arg(long, env = "BLIP_SHUTDOWN_GRACE", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub shutdown_grace: Duration,

    /// Seconds in one action of an engine (admission of images, or a decoder step) after which the process is not live; 0 disables it
    #[arg(long, env = "BLIP_WATCHDOG", value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub watchdog: Duration,

    /// File of API keys, one per line: a key, or a line from `blip-serve hash-key`; reloaded when it changes
    #[arg(long, env = "BLIP_API_KEYS_FILE", value_name = "FILE", help_heading = "Security")]
    pub api_keys_file: Option<PathBuf>,

    /// API keys, separated by commas; safer in the environment than on the command line
    #[arg(
        long,
        env = "BLIP_API_KEYS",
        value_name = "KEYS",
        hide_env_values = true,
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub api_keys: Vec<Secret>,

    /// PEM file with the certificate chain; the port then speaks TLS only. Reloaded when it changes
    #[arg(long, env = "BLIP_TLS_CERT", value_name = "FILE", requires = "tls_key", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the certificate's private key
    #[arg(long, env = "BLIP_TLS_KEY", value_name = "FILE", requires = "tls_cert", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with certificate authorities; clients must present a certificate signed by one of them. Requires
    /// --admin-listen, for the probes
    #[arg(
        long,
        env = "BLIP_TLS_CLIENT_CA",
        value_name = "FILE",
        requires_all = ["tls_cert", "admin_listen"],
        help_heading = "Security"
    )]
    pub tls_client_ca: Option<PathBuf>,

    /// Answer GET /metrics without an API key
    #[arg(long, env = "BLIP_OPEN_METRICS", help_heading = "Security")]
    pub open_metrics: bool,

    /// Allow clients to load and unload models; without it only clients with an API key may, or every client if the
    /// service listens on loopback
    #[arg(long, env = "BLIP_MODEL_CONTROL", help_heading = "Security")]
    pub model_control: bool,

    /// Origins (scheme://host:port) whose web pages may call the REST API, separated by commas; * allows every origin
    #[arg(long, env = "BLIP_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', help_heading = "Security")]
    pub cors_origins: Vec<Origin>,

    #[allow(missing_docs, reason = "clap would print it")]
    #[command(flatten)]
    pub limits: Limits,
}

/// Settings of the server, resolved.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Limits of requests and connections.
    pub limits: Limits,
    /// The API keys; if there are none, every client may call.
    pub api_keys: ApiKeys,
    /// The sources of the keys, for reloading them.
    pub key_source: KeySource,
    /// Certificates, if the port uses TLS.
    pub tls: Option<TlsFiles>,
    /// Maximum size of an image inside a request in bytes.
    pub max_image_bytes: usize,
    /// Time that in-flight requests get after the signal to stop.
    pub shutdown_grace: Duration,
    /// Time in one action of an engine after which the process is not live.
    pub watchdog: Duration,
    /// Whether metrics are public.
    pub open_metrics: bool,
    /// Whether clients may load and unload models.
    pub model_control: bool,
    /// Name of the server in its metadata.
    pub server_name: String,
    /// Origins whose web pages may call.
    pub cors_origins: Vec<Origin>,
}

/// The PEM files that TLS needs.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub certificates: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities that clients' certificates must be signed by.
    pub client_authorities: Option<PathBuf>,
}

/// An origin of web pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`: every origin.
    Any,
    /// Scheme, host and port, as browsers write them.
    One(String),
}

impl ServerArgs {
    /// Resolves the settings and reads the API keys. A server without a name is called after its default model.
    ///
    /// # Errors
    /// The file of keys cannot be read, or a line of it is not valid.
    pub fn resolve(self, image: &ImageConfig, default_model: &str) -> Result<ServerConfig, ConfigError> {
        let key_source =
            KeySource { keys: self.api_keys, file: self.api_keys_file, default_rate: self.limits.rate_limit };
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

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = Url::parse(text).map(|url| url.origin().ascii_serialization());
        match origin {
            Ok(origin) if origin == text => Ok(Self::One(origin)),
            _ => Err(format!("'{text}' is not a valid origin such as https://example.com")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn resolve(flags: &[&str]) -> ServerConfig {
        let command = ServerArgs::augment_args(Command::new("test").no_binary_name(true));
        let args = ServerArgs::from_arg_matches(&command.get_matches_from(flags)).unwrap();
        args.resolve(&ImageConfig::from_flags(&[]), "scenes").unwrap()
    }

    #[test]
    fn models_are_controlled_by_clients_with_keys_or_on_loopback_unless_allowed() {
        assert!(!resolve(&["--listen=0.0.0.0:1"]).model_control);
        assert!(resolve(&["--listen=0.0.0.0:1", "--model-control"]).model_control);
        assert!(resolve(&["--listen=0.0.0.0:1", "--api-keys=a"]).model_control);
        assert!(resolve(&["--listen=127.0.0.1:1"]).model_control);
    }

    #[test]
    fn a_server_without_a_name_is_called_after_its_default_model() {
        assert_eq!(resolve(&[]).server_name, "scenes");
        assert_eq!(resolve(&["--server-name=captions"]).server_name, "captions");
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
}
