//! CORS: which web pages of other origins may call REST.

use http::{HeaderValue, Method, header, request::Parts, uri::Authority};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::Origin,
    server::middleware::{
        context::{BINARY_HEADER, REQUEST_ID, SERVER_TIMING},
        deadline::TIMEOUT_HEADER,
    },
};

/// The layer that lets pages of these origins call; none if there are no origins.
pub(crate) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let value = |origin: &Origin| match origin {
        Origin::One(origin) => HeaderValue::from_str(origin).ok(),
        Origin::Any => None,
    };
    let allowed = if origins.contains(&Origin::Any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(value))
    };
    let own = [REQUEST_ID, TIMEOUT_HEADER, BINARY_HEADER];
    let standard = [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_ENCODING];
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(standard.into_iter().chain(own.clone()).collect::<Vec<_>>())
        .expose_headers(own.into_iter().chain([header::RETRY_AFTER, SERVER_TIMING]).collect::<Vec<_>>());
    Some(cors)
}

/// Whether a page of another origin sends the request. Browsers allow every page to post to every host, even to
/// this machine, and name the page in `origin`.
pub(crate) fn is_cross_origin(head: &Parts) -> bool {
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).or(head.uri.authority().map(Authority::as_str));
    let page = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    page.is_some() && page != host
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use http::{HeaderMap, Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    /// Headers of the response to a request of a page.
    async fn headers(origins: &[&str], method: &str) -> HeaderMap {
        let origins: Vec<Origin> = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
        let request = Request::builder().method(method).uri("/infer").header("origin", "https://page.example");
        let request = request.header("access-control-request-method", "POST").body(Body::empty()).unwrap();
        layer(&origins).unwrap().layer(handler).oneshot(request).await.unwrap().headers().clone()
    }

    #[test]
    fn a_page_of_another_host_is_cross_origin() {
        let is_cross = |uri: &str, headers: &[(&str, &str)]| {
            let request = Request::builder().uri(uri);
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            is_cross_origin(&request.body(()).unwrap().into_parts().0)
        };
        let host = ("host", "a.example:8080");
        assert!(!is_cross("/", &[host]), "not a page");
        assert!(!is_cross("/", &[host, ("origin", "http://a.example:8080")]));
        assert!(is_cross("/", &[host, ("origin", "http://a.example")]));
        assert!(is_cross("/", &[host, ("origin", "null")]), "a page without an origin, e.g. a file");
        // HTTP/2 names the host in the URI.
        assert!(!is_cross("http://a.example/", &[("origin", "https://a.example")]));
        assert!(is_cross("http://a.example/", &[("origin", "https://b.example")]));
    }

    #[test]
    fn without_origins_there_is_no_layer() {
        assert!(layer(&[]).is_none());
    }

    #[tokio::test]
    async fn only_pages_of_the_named_origins_may_call() {
        let allowed = "access-control-allow-origin";
        assert_eq!(headers(&["https://page.example"], "POST").await[allowed], "https://page.example");
        assert_eq!(headers(&["https://other.example"], "POST").await.get(allowed), None);
        assert_eq!(headers(&["*"], "POST").await[allowed], "*");
        assert_eq!(headers(&["https://other.example", "*"], "POST").await[allowed], "*");
    }

    #[tokio::test]
    async fn a_preflight_lists_what_a_page_may_send_and_read() {
        let preflight = headers(&["*"], "OPTIONS").await;
        let list = "authorization,content-type,content-encoding,x-request-id,x-request-timeout-ms,inference-header-content-length";
        assert_eq!(preflight["access-control-allow-headers"], list);
        assert_eq!(preflight["access-control-allow-methods"], "GET,POST");
        let list = "x-request-id,x-request-timeout-ms,inference-header-content-length,retry-after,server-timing";
        assert_eq!(headers(&["*"], "POST").await["access-control-expose-headers"], list);
    }
}
