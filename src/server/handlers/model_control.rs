//! Loading and unloading models on request, for both transports.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{error::CaptionError, registry::ReloadError, server::state::AppState};

const NOT_ALLOWED: CaptionError =
    CaptionError::Forbidden("loading and unloading models needs an API key, or the setting --model-control");

/// Loads a model as the current models.toml describes it. The previous one serves until the new one is warm.
///
/// The model is loaded even if the client disconnects: loading may take longer than a load balancer waits.
pub(crate) async fn load(state: &Arc<AppState>, name: &str) -> Result<(), CaptionError> {
    check_allowed(state)?;
    let (state, name) = (state.clone(), name.to_owned());
    let loading = tokio::spawn(async move {
        let outcome = state.captioner()?.registry().load_model(&name).await;
        state.metrics.record_reload("models", outcome.is_ok());
        outcome.map_err(|error| public_error(&name, error)).inspect(|()| info!(model = name, "model loaded on request"))
    });
    loading.await.map_err(CaptionError::internal)?
}

/// Takes a model out of service.
pub(crate) async fn unload(state: &AppState, name: &str) -> Result<(), CaptionError> {
    check_allowed(state)?;
    let outcome = state.captioner()?.registry().unload_model(name).await;
    outcome.map_err(|error| public_error(name, error)).inspect(|()| info!(model = name, "model unloaded on request"))
}

fn check_allowed(state: &AppState) -> Result<(), CaptionError> {
    if state.model_control { Ok(()) } else { Err(NOT_ALLOWED) }
}

/// The error for the client; paths and texts of libraries go to the log.
fn public_error(name: &str, error: ReloadError) -> CaptionError {
    warn!(model = name, %error, "model not loaded");
    match error {
        ReloadError::Unknown(name) => CaptionError::UnknownModel { name },
        ReloadError::Memory { .. } => {
            CaptionError::Unavailable("there is too little memory for the new model beside the old one")
        }
        _ => CaptionError::invalid("model_name", "the model cannot be loaded, and nothing was changed; see the log"),
    }
}
