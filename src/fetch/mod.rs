//! From an untrusted image URL to bytes.
//!
//! `policy` decides which URLs are allowed, `resolver` and `address` which addresses may be reached, both for every hop.
//! This module limits the transfer in time, redirects, bytes and concurrency. Every failure is [`CaptionError::ImageUrl`]:
//! one fixed text for the client, the reason for the log.

mod address;
mod client;
mod data_url;
mod policy;
mod reason;
mod resolver;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use reqwest::{Client, Response};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;
use url::Url;

pub(crate) use self::{
    data_url::{decode_base64, decode_data_url, is_data_url, least_decoded_length},
    reason::explain_refusal,
};
use self::{
    policy::Policy,
    reason::{failed, refused},
};
use crate::{
    config::ImageConfig,
    error::{CaptionError, Cause},
};

/// Fetches images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    policy: Arc<Policy>,
    /// One permit per concurrent fetch.
    permits: Arc<Semaphore>,
    max_image_bytes: usize,
    max_redirects: u8,
    /// Time to connect, send the request and receive the response headers.
    head_timeout: Duration,
    /// Time between two chunks of the body.
    idle_timeout: Duration,
    /// Time for the whole fetch, including all waiting.
    timeout: Duration,
}

impl Fetcher {
    /// Creates a fetcher with these settings; it does not use the network yet.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(config: &ImageConfig) -> Result<Self, Cause> {
        let fetch = &config.fetch;
        Ok(Self {
            client: client::build(fetch)?,
            policy: Arc::new(Policy::new(fetch)),
            permits: Arc::new(Semaphore::new(fetch.fetch_concurrency.into())),
            max_image_bytes: config.max_image_bytes,
            max_redirects: fetch.fetch_redirects,
            head_timeout: fetch.fetch_connect_timeout + fetch.fetch_idle_timeout,
            idle_timeout: fetch.fetch_idle_timeout,
            timeout: fetch.fetch_timeout,
        })
    }

    /// Fetches the bytes at `url`, at most `max_image_bytes` of them.
    ///
    /// # Errors
    /// [`CaptionError::ImageUrl`].
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, CaptionError> {
        let deadline = Instant::now() + self.timeout;
        // Checked before waiting for a permit: a URL that is not allowed is refused at once.
        self.policy.check(url).map_err(refused)?;
        let permit = timeout_at(deadline, self.permits.acquire()).await.map_err(|_| refused("busy"))?;
        let _permit = permit.map_err(CaptionError::internal)?;
        timeout_at(deadline, self.follow(url.clone())).await.unwrap_or_else(|_| Err(refused("timeout")))
    }

    async fn follow(&self, mut url: Url) -> Result<Bytes, CaptionError> {
        let mut redirects = 0;
        loop {
            self.policy.check(&url).map_err(refused)?;
            let request = self.client.get(url.clone()).send();
            let response = timeout(self.head_timeout, request).await.map_err(|_| refused("idle_timeout"))?;
            let response = response.map_err(failed)?;
            if !is_redirect(response.status()) {
                return self.read(response).await;
            }
            if redirects == self.max_redirects {
                return Err(refused(if redirects == 0 { "redirect" } else { "too_many_redirects" }));
            }
            redirects += 1;
            url = redirect_target(&url, &response)?;
            debug!(host = url.host_str(), "redirected");
        }
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CaptionError> {
        if response.status() != StatusCode::OK {
            debug!(status = response.status().as_u16(), "the image server answered with an error");
            return Err(refused("status"));
        }
        let mut encodings = response.headers().get_all(header::CONTENT_ENCODING).iter();
        if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(refused("content_encoding"));
        }
        let too_large = || refused("too_large");
        // The header only permits an early failure: the bytes that arrive are counted below.
        if response.content_length().is_some_and(|length| length > self.max_image_bytes as u64) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        loop {
            let chunk = timeout(self.idle_timeout, response.chunk()).await.map_err(|_| refused("idle_timeout"))?;
            let Some(chunk) = chunk.map_err(failed)? else {
                return Ok(bytes.freeze());
            };
            if bytes.len() + chunk.len() > self.max_image_bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

#[cfg(fuzzing)]
impl Fetcher {
    /// Whether the policy allows a URL; for `fuzz/`.
    #[doc(hidden)]
    pub fn allows(&self, url: &Url) -> bool {
        self.policy.check(url).is_ok()
    }
}

/// Whether a status redirects a GET; 300 and 304 do not.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The target of a redirect; the policy has not checked it yet.
fn redirect_target(url: &Url, response: &Response) -> Result<Url, CaptionError> {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| url.join(location).ok()).ok_or_else(|| refused("redirect_location"))?;
    // A URL with TLS must not be answered by an attacker between the hops.
    if url.scheme() == "https" && target.scheme() == "http" {
        return Err(refused("redirect_downgrade"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fetch_without_a_permit_in_time_is_refused_and_the_next_is_not() {
        let flags = ["--allow-private-networks", "--fetch-concurrency=1", "--fetch-timeout=1"];
        let fetcher = Fetcher::new(&ImageConfig::from_flags(&flags)).unwrap();
        let reason = async || match fetcher.fetch(&Url::parse("http://127.0.0.1:1/").unwrap()).await {
            Err(CaptionError::ImageUrl { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let permit = fetcher.permits.acquire().await.unwrap();
        assert_eq!(reason().await, "busy");
        drop(permit);
        assert_eq!(reason().await, "connect");
    }

    fn redirect(url: &str, location: Option<&str>) -> Result<String, &'static str> {
        let mut response = http::Response::builder().status(StatusCode::FOUND);
        if let Some(location) = location {
            response = response.header(header::LOCATION, location);
        }
        let response = Response::from(response.body("").unwrap());
        match redirect_target(&Url::parse(url).unwrap(), &response) {
            Ok(target) => Ok(target.into()),
            Err(CaptionError::ImageUrl { reason, .. }) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_redirect_is_relative_to_its_url_and_never_leaves_https() {
        for (url, location, target) in [
            ("http://a.example/x/y.png", "z.png", "http://a.example/x/z.png"),
            ("https://a.example/x/y.png", "/z.png", "https://a.example/z.png"),
            ("https://a.example/", "//b.example/z.png", "https://b.example/z.png"),
            ("http://a.example/", "https://a.example/z.png", "https://a.example/z.png"),
            ("http://a.example/", "http://b.example:81/", "http://b.example:81/"),
        ] {
            assert_eq!(redirect(url, Some(location)).as_deref(), Ok(target), "{location}");
        }
        assert_eq!(redirect("https://a.example/", Some("http://a.example/")), Err("redirect_downgrade"));
        assert_eq!(redirect("http://a.example/", Some("http://[")), Err("redirect_location"));
        assert_eq!(redirect("http://a.example/", None), Err("redirect_location"));
    }

    #[test]
    fn only_some_statuses_are_redirects() {
        let redirects: Vec<u16> =
            (100..600).filter(|status| is_redirect(StatusCode::from_u16(*status).unwrap())).collect();
        assert_eq!(redirects, [301, 302, 303, 307, 308]);
    }
}
