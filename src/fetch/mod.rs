//! From an image URL to bytes, for URLs that strangers wrote.
//!
//! http and https only, no credentials, public addresses only (checked on what is connected to, at every redirect), bounded
//! in time, hops and bytes. Whatever goes wrong is [`CaptionError::ImageUrl`]: one sentence for the client, the reason for
//! the log.

mod address;
mod data_url;
mod resolver;

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tracing::{debug, warn};
use url::{Host, Url};

use crate::{
    config::ImageConfig,
    error::{CaptionError, Cause},
};

pub(crate) use self::data_url::{decode_base64, decode_data_url, is_data_url, least_decoded_length};
use self::{
    address::is_global,
    resolver::{PrivateAddress, PublicResolver, Unresolvable},
};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// Of the time for the whole fetch, at most so much for one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What we say we are.
const USER_AGENT: &str = concat!("blip-serve/", env!("CARGO_PKG_VERSION"));

/// Fetches images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    allow_private_networks: bool,
    max_image_bytes: usize,
    timeout: Duration,
}

impl Fetcher {
    /// A fetcher with these rules. Needs no network; without root certificates only http works, and a warning says so.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(config: &ImageConfig) -> Result<Self, Cause> {
        let allow_private_networks = config.allow_private_networks;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.5"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .http1_only()
            .dns_resolver(PublicResolver { allow_private_networks })
            // Redirects are followed by hand, so that each target is checked.
            .redirect(Policy::none())
            .no_proxy()
            // A kept connection that its server closes just as we reuse it fails a request for nothing.
            .pool_max_idle_per_host(0)
            .referer(false)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT.min(config.fetch_timeout))
            .build()?;
        let (max_image_bytes, timeout) = (config.max_image_bytes, config.fetch_timeout);
        Ok(Self { client, allow_private_networks, max_image_bytes, timeout })
    }

    /// The bytes at `url`, at most `max_image_bytes` of them.
    ///
    /// # Errors
    /// [`CaptionError::ImageUrl`].
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, CaptionError> {
        let fetched = tokio::time::timeout(self.timeout, self.follow(url.clone())).await;
        fetched.unwrap_or_else(|_| Err(refused("timeout")))
    }

    async fn follow(&self, mut url: Url) -> Result<Bytes, CaptionError> {
        for _ in 0..=MAX_REDIRECTS {
            self.check(&url)?;
            let response = self.client.get(url.clone()).send().await.map_err(failed)?;
            if !response.status().is_redirection() {
                return self.read(response).await;
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            url = location.and_then(|location| url.join(location).ok()).ok_or_else(|| refused("redirect_location"))?;
            debug!(host = url.host_str(), "following a redirect");
        }
        Err(refused("too_many_redirects"))
    }

    /// What can be seen from a URL itself. An address in it never reaches the resolver, so it is checked here.
    fn check(&self, url: &Url) -> Result<(), CaptionError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("scheme"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("credentials"));
        }
        let address: Option<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) => None,
            None => return Err(refused("no_host")),
        };
        match address {
            Some(address) if !self.allow_private_networks && !is_global(address) => Err(refused("private_address")),
            _ => Ok(()),
        }
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CaptionError> {
        if response.status() != StatusCode::OK {
            debug!(status = response.status().as_u16(), "the image's server answered with an error");
            return Err(refused("status"));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(refused("content_encoding"));
        }
        let too_large = || refused("too_large");
        // The header is only a hint to fail early; what counts is what comes.
        if response.content_length().is_some_and(|length| length > self.max_image_bytes as u64) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > self.max_image_bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

/// TLS with ring and the system's root certificates.
fn tls() -> Result<ClientConfig, Cause> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        warn!(
            "no root certificates found: images cannot be fetched over https (install ca-certificates or set SSL_CERT_FILE)"
        );
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

fn refused(reason: &'static str) -> CaptionError {
    CaptionError::ImageUrl { reason, source: None }
}

/// The HTTP client's error with a label for the log.
fn failed(error: reqwest::Error) -> CaptionError {
    let is_caused_by = |test: fn(&(dyn Error + 'static)) -> bool| causes(&error).any(test);
    let reason = if is_caused_by(<dyn Error>::is::<PrivateAddress>) {
        "private_address"
    } else if is_caused_by(<dyn Error>::is::<Unresolvable>) {
        "dns"
    } else if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "connect"
    } else {
        "transfer"
    };
    // The log has the URL's host from elsewhere; its path and query may hold a signature.
    CaptionError::ImageUrl { reason, source: Some(error.without_url().into()) }
}

/// What is behind an error, outermost first.
fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetcher(allow_private_networks: bool) -> Fetcher {
        let config = ImageConfig {
            allow_private_networks,
            max_image_bytes: 1000,
            max_image_pixels: 1000,
            fetch_timeout: Duration::from_secs(2),
        };
        Fetcher::new(&config).unwrap()
    }

    async fn reason(fetcher: &Fetcher, url: &str) -> &'static str {
        match fetcher.fetch(&Url::parse(url).unwrap()).await {
            Err(CaptionError::ImageUrl { reason, .. }) => reason,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn an_address_in_the_url_is_refused_in_every_notation() {
        let fetcher = fetcher(false);
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://0/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "https://192.168.1.1:8443/",
            "http:\\\\127.0.0.1\\",
        ] {
            assert_eq!(reason(&fetcher, url).await, "private_address", "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_when_it_is_resolved() {
        assert_eq!(reason(&fetcher(false), "http://localhost:9/").await, "private_address");
    }

    #[tokio::test]
    async fn schemes_and_credentials_are_refused_before_anything_is_sent() {
        for (url, expected) in [
            ("ftp://example.com/a.png", "scheme"),
            ("file:///etc/passwd", "scheme"),
            ("http://user@example.com/", "credentials"),
            ("http://:secret@example.com/", "credentials"),
        ] {
            assert_eq!(reason(&fetcher(true), url).await, expected, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_refused() {
        assert_eq!(reason(&fetcher(true), "http://no-such-host.invalid/").await, "dns");
    }
}
