//! The playground at `/`: a page that tries the REST routes. Its files are part of the binary, and the page loads nothing
//! from other servers.

use std::{future::ready, sync::Arc};

use axum::{Router, body::Body, response::Response, routing::get};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::server::state::AppState;

/// Scripts and styles are files of this server, requests go only to this server, and no script can write HTML. Images may
/// also be files that the user has chosen.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every file. A browser checks each time whether the file has changed, since a new version of the server must
/// not run with scripts of the old one.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-cache"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, content type and bytes of a file. The page uses relative paths to the others, so that it also works behind a
/// proxy that adds a prefix.
type Asset = (&'static str, &'static str, &'static [u8]);

const ASSETS: [Asset; 18] = [
    ("/", HTML, include_bytes!("index.html")),
    ("/playground/base.css", CSS, include_bytes!("base.css")),
    ("/playground/form.css", CSS, include_bytes!("form.css")),
    ("/playground/cards.css", CSS, include_bytes!("cards.css")),
    ("/playground/theme.js", JAVASCRIPT, include_bytes!("theme.js")),
    ("/playground/app.js", JAVASCRIPT, include_bytes!("app.js")),
    ("/playground/api.js", JAVASCRIPT, include_bytes!("api.js")),
    ("/playground/card.js", JAVASCRIPT, include_bytes!("card.js")),
    ("/playground/commands.js", JAVASCRIPT, include_bytes!("commands.js")),
    ("/playground/dom.js", JAVASCRIPT, include_bytes!("dom.js")),
    ("/playground/errors.js", JAVASCRIPT, include_bytes!("errors.js")),
    ("/playground/images.js", JAVASCRIPT, include_bytes!("images.js")),
    ("/playground/key.js", JAVASCRIPT, include_bytes!("key.js")),
    ("/playground/models.js", JAVASCRIPT, include_bytes!("models.js")),
    ("/playground/parameters.js", JAVASCRIPT, include_bytes!("parameters.js")),
    ("/playground/queue.js", JAVASCRIPT, include_bytes!("queue.js")),
    ("/playground/icon.svg", "image/svg+xml", include_bytes!("icon.svg")),
    ("/playground/sample.jpg", "image/jpeg", include_bytes!("sample.jpg")),
];

/// The page and its files.
pub(super) fn routes() -> Router<Arc<AppState>> {
    ASSETS.into_iter().fold(Router::new(), |router, asset| {
        let tag = entity_tag(asset.2);
        router.route(asset.0, get(move |headers: HeaderMap| ready(response(asset, &tag, &headers))))
    })
}

/// The file, or 304 if the browser has it.
fn response((_, content_type, bytes): Asset, tag: &str, request: &HeaderMap) -> Response {
    let is_cached = is_cached(request, tag);
    let mut response = Response::new(if is_cached { Body::empty() } else { Body::from(bytes) });
    let headers = response.headers_mut();
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.extend(HeaderValue::from_str(tag).ok().map(|tag| (header::ETAG, tag)));
    if is_cached {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// A weak tag, since the bytes on the wire depend on the compression.
fn entity_tag(bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let head = digest.first_chunk().copied().map_or(0, u128::from_be_bytes);
    format!("W/\"{head:032x}\"")
}

/// Whether the request names this file as one that the browser has.
fn is_cached(request: &HeaderMap, tag: &str) -> bool {
    let named = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    named.flat_map(|value| value.split(',')).map(opaque).any(|named| named == "*" || named == opaque(tag))
}
