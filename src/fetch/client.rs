//! The HTTP client of the fetcher: what it says, whom it trusts, where it connects.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Client, Proxy, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tracing::warn;

use crate::fetch::resolver::{CheckedResolver, Reach};
use crate::{config::ImageConfig, error::Cause};

/// What we say we are.
const USER_AGENT: &str = concat!("blip-serve/", env!("CARGO_PKG_VERSION"));

/// Follows no redirect by itself, keeps no connection, knows no proxy but the configured one.
pub(super) fn client(config: &ImageConfig) -> Result<Client, Cause> {
    let fetch = &config.fetch;
    let reach = match &fetch.fetch_proxy {
        Some(proxy) => Reach::Proxy(proxy.host().into()),
        None if config.allow_private_networks => Reach::Everything,
        None => Reach::Public,
    };
    // Twice: the look-ups of the fetches, and as many that outlived theirs.
    let resolver = CheckedResolver::new(reach, 2 * usize::from(fetch.fetch_concurrency));
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.5"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = Client::builder()
        .tls_backend_preconfigured(tls()?)
        // hyper bounds the answer's head by itself: 100 headers, 400 KiB.
        .http1_only()
        .dns_resolver(resolver)
        // Redirects are followed by hand, so that each target is checked.
        .redirect(Policy::none())
        // Nor those of the environment.
        .no_proxy()
        // A kept connection that its server closes just as we reuse it fails a request for nothing.
        .pool_max_idle_per_host(0)
        .referer(false)
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .connect_timeout(fetch.fetch_connect_timeout);
    let builder = match &fetch.fetch_proxy {
        Some(proxy) => builder.proxy(Proxy::all(proxy.url().clone())?),
        None => builder,
    };
    Ok(builder.build()?)
}

/// TLS with ring and the system's root certificates. Without any only http works, and a warning says so.
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
