//! Web pages of other origins.

use http::{HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::Origin,
    server::middleware::{
        context::{BINARY_HEADER, REQUEST_ID, SERVER_TIMING},
        deadline::TIMEOUT_HEADER,
    },
};

/// Lets web pages of these origins call REST.
pub(crate) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let one = |origin: &Origin| match origin {
        Origin::One(origin) => HeaderValue::from_str(origin).ok(),
        Origin::Any => None,
    };
    let allowed = if origins.contains(&Origin::Any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(one))
    };
    let ours = [REQUEST_ID, TIMEOUT_HEADER, BINARY_HEADER];
    let sent = [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_ENCODING];
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(sent.into_iter().chain(ours.clone()).collect::<Vec<_>>())
        .expose_headers(ours.into_iter().chain([header::RETRY_AFTER, SERVER_TIMING]).collect::<Vec<_>>());
    Some(cors)
}
