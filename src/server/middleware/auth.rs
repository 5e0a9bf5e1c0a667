//! Who calls: the API key of a request, and whether its rate is used up.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header};

use crate::{
    config::api_keys::{ApiKey, ApiKeys},
    error::CaptionError,
    server::{
        middleware::{body::refuse, context::RequestContext, layer_state::LayerState},
        routes::RouteClass,
    },
};

/// Whose key a request has; an extension, absent where nobody needs one.
#[derive(Clone, Debug)]
struct Caller(Arc<ApiKey>);

/// Who asks, as a number; 0 where nobody needs a key.
pub(crate) fn caller(request: &Request) -> u64 {
    request.extensions().get::<Caller>().map_or(0, |Caller(key)| key.number())
}

/// Lets in whoever needs no key or has one whose rate is not used up.
pub(crate) async fn authenticate(State(policy): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let is_open = match context.route.class {
        RouteClass::Public => true,
        RouteClass::Metrics => policy.open_metrics,
        RouteClass::Metadata | RouteClass::Control | RouteClass::Inference => false,
    };
    let key = {
        let keys = policy.api_keys.borrow();
        if is_open || keys.is_empty() { Ok(None) } else { find_key(&keys, request.headers()).map(Some) }
    };
    let counted = key.and_then(|key| match &key {
        Some(key) if context.route.class == RouteClass::Inference => {
            context.notes.key(&key.label);
            key.count().map(|()| Some(key.clone())).map_err(|retry_after| CaptionError::RateLimited { retry_after })
        }
        _ => Ok(key),
    });
    match counted {
        Err(error) => refuse(request, &context, &error).await,
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => {
            context.notes.key(&key.label);
            request.extensions_mut().insert(Caller(key));
            next.run(request).await
        }
    }
}

fn find_key(keys: &ApiKeys, headers: &HeaderMap) -> Result<Arc<ApiKey>, CaptionError> {
    bearer_key(headers).and_then(|key| keys.find(key)).cloned().ok_or(CaptionError::Unauthenticated)
}

fn bearer_key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
