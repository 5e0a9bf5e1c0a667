//! CORS: which web pages of other origins may call REST.

use http::{HeaderValue, Method, header};
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
    async fn a_page_learns_what_it_may_send_and_read() {
        let preflight = headers(&["*"], "OPTIONS").await;
        let list = "authorization,content-type,content-encoding,x-request-id,x-request-timeout-ms,inference-header-content-length";
        assert_eq!(preflight["access-control-allow-headers"], list);
        assert_eq!(preflight["access-control-allow-methods"], "GET,POST");
        let list = "x-request-id,x-request-timeout-ms,inference-header-content-length,retry-after,server-timing";
        assert_eq!(headers(&["*"], "POST").await["access-control-expose-headers"], list);
    }
}
