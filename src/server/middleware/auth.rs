//! Authentication: the API key of a request, and whether its rate is used up.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header};

use crate::{
    config::api_keys::ApiKey,
    error::CaptionError,
    server::{
        middleware::{body::refuse, context::RequestContext, layer_state::LayerState},
        routes::RouteClass,
    },
};

/// The key of a request; an extension, absent where no key is needed.
#[derive(Clone, Debug)]
struct Caller(Arc<ApiKey>);

/// Number of the client's key, by which work is shared between keys; 0 where no key is needed.
pub(crate) fn caller_number(request: &Request) -> u64 {
    request.extensions().get::<Caller>().map_or(0, |Caller(key)| key.number())
}

/// Passes requests that need no key or have one whose rate is not used up.
pub(crate) async fn authenticate(State(state): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    match check(&state, &context, request.headers()) {
        Err(error) => refuse(request, &context, &error).await,
        Ok(key) => {
            if let Some(key) = key {
                request.extensions_mut().insert(Caller(key));
            }
            next.run(request).await
        }
    }
}

/// The key of a request; none if its route or the server needs none.
fn check(
    state: &LayerState,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Option<Arc<ApiKey>>, CaptionError> {
    let keys = state.api_keys.borrow();
    let is_open = match context.route.class {
        RouteClass::Public => true,
        RouteClass::Metrics => state.open_metrics,
        RouteClass::Metadata | RouteClass::Control | RouteClass::Inference => false,
    };
    if is_open || keys.is_empty() {
        return Ok(None);
    }
    let key = bearer_key(headers).and_then(|key| keys.find(key)).cloned().ok_or(CaptionError::Unauthenticated)?;
    // Before its rate is counted: a refused request is recorded under its key too.
    context.record.set_key(&key.label);
    if context.route.class == RouteClass::Inference {
        key.count().map_err(|retry_after| CaptionError::RateLimited { retry_after })?;
    }
    Ok(Some(key))
}

fn bearer_key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::config::limits::Limits;

    fn outcome(state: &LayerState, method: &str, path: &str, key: Option<&str>) -> Result<Option<String>, String> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let request = request.body(Body::empty()).unwrap();
        let context = RequestContext::for_request(&request);
        let key = check(state, &context, request.headers()).map_err(|error| error.to_string())?;
        let label = key.map(|key| key.label.clone());
        assert_eq!(context.record.fields().key, label.clone().unwrap_or_default());
        Ok(label)
    }

    #[test]
    fn every_class_but_the_public_one_needs_a_key() {
        let state = LayerState::for_test(Limits::defaults(), &["secret"]);
        for (method, path) in
            [("POST", "/infer"), ("GET", "/v2"), ("POST", "/v2/repository/models/m/load"), ("GET", "/metrics")]
        {
            for wrong in [None, Some("Bearer other"), Some("Basic secret"), Some("secret"), Some("Bearer")] {
                let refused = outcome(&state, method, path, wrong).unwrap_err();
                assert_eq!(refused, CaptionError::Unauthenticated.to_string(), "{path} {wrong:?}");
            }
            for right in ["Bearer secret", "bearer  secret "] {
                assert_eq!(outcome(&state, method, path, Some(right)), Ok(Some("key-1".to_owned())), "{path}");
            }
        }
        assert_eq!(outcome(&state, "GET", "/v2/health/live", None), Ok(None));
        let state = LayerState { open_metrics: true, ..state };
        assert_eq!(outcome(&state, "GET", "/metrics", None), Ok(None));
        assert!(outcome(&state, "GET", "/v2", None).is_err(), "the setting opens the metrics only");
    }

    #[test]
    fn a_server_without_keys_serves_every_client() {
        let state = LayerState::for_test(Limits::defaults(), &[]);
        assert_eq!(outcome(&state, "POST", "/infer", None), Ok(None));
        assert_eq!(outcome(&state, "POST", "/infer", Some("Bearer other")), Ok(None));
    }

    #[test]
    fn only_inference_counts_against_the_rate() {
        let state = LayerState::for_test(Limits::defaults(), &["secret rate=0.001"]);
        for _ in 0..3 {
            assert!(outcome(&state, "GET", "/v2", Some("Bearer secret")).is_ok());
        }
        let refused = (0..3).map(|_| outcome(&state, "POST", "/infer", Some("Bearer secret")));
        let refused: Vec<bool> = refused.map(|outcome| outcome.is_err()).collect();
        assert_eq!(refused, [false, true, true]);
    }

    #[test]
    fn a_key_has_one_number_and_no_key_is_number_zero() {
        let state = LayerState::for_test(Limits::defaults(), &["secret"]);
        let mut request = Request::new(Body::empty());
        assert_eq!(caller_number(&request), 0);
        let key = state.api_keys.borrow().find("secret").cloned().unwrap();
        request.extensions_mut().insert(Caller(key.clone()));
        assert_eq!(caller_number(&request), key.number());
        assert_ne!(key.number(), 0);
    }
}
