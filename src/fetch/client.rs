//! The HTTP client of the fetcher: its headers, its certificates, where it connects.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Client, Proxy, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tracing::warn;

use crate::fetch::resolver::{AddressRule, CheckedResolver};
use crate::{config::fetch::FetchConfig, error::Cause};

/// The `user-agent` header.
const USER_AGENT: &str = concat!("blip-serve/", env!("CARGO_PKG_VERSION"));

/// Builds a client that follows no redirects, keeps no idle connections and uses only the configured proxy.
pub(super) fn build(config: &FetchConfig) -> Result<Client, Cause> {
    let reach = match &config.fetch_proxy {
        Some(proxy) => AddressRule::Proxy(proxy.host().into()),
        None if config.allow_private_networks => AddressRule::Everything,
        None => AddressRule::Public,
    };
    // Twice the fetches: a look-up cannot be interrupted and may outlive its fetch.
    let resolver = CheckedResolver::new(reach, 2 * usize::from(config.fetch_concurrency));
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.5"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = Client::builder()
        .tls_backend_preconfigured(tls()?)
        // hyper limits the response headers: 100 of them, 400 KiB.
        .http1_only()
        .dns_resolver(resolver)
        // The fetcher follows redirects itself, to check each target.
        .redirect(Policy::none())
        // Proxies of the environment are ignored.
        .no_proxy()
        // A server may close an idle connection just as it is reused, which would fail the fetch.
        .pool_max_idle_per_host(0)
        .referer(false)
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .connect_timeout(config.fetch_connect_timeout);
    let builder = match &config.fetch_proxy {
        Some(proxy) => builder.proxy(Proxy::all(proxy.url().clone())?),
        None => builder,
    };
    Ok(builder.build()?)
}

/// TLS with ring and the system's root certificates. Without any, only http works; a warning is logged.
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
