//! Converts the messages of `blip.v1` to the types of `caption` and back.

use crate::{
    caption::{Caption, CaptionReply, CaptionRequest},
    error::CaptionError,
    server::{
        middleware::deadline::Deadline,
        protocol::{
            ContentLimits, echo, image, new_request,
            pb::blip::{self as pb, caption_request::Source},
            prompt,
        },
    },
};
use generation::{FinishReason, GenerationParameters};

/// The request that a message describes.
pub(crate) fn caption_request(
    message: pb::CaptionRequest,
    limits: ContentLimits,
    deadline: Deadline,
) -> Result<CaptionRequest, CaptionError> {
    let image = match message.source {
        Some(Source::ImageUrl(url)) => image::from_url(&url, limits)?,
        Some(Source::Image(bytes)) => image::from_bytes(bytes, limits)?,
        None => return Err(CaptionError::invalid("image", "one of image_url and image is required")),
    };
    Ok(CaptionRequest {
        model: (!message.model.is_empty()).then_some(message.model),
        prompt: prompt("prompt", message.prompt.as_deref(), limits)?,
        parameters: message.parameters.map(parameters).transpose()?.unwrap_or_default(),
        ..new_request(image, deadline)
    })
}

/// The response to the request with this `id`.
pub(crate) fn caption_response(id: String, reply: CaptionReply) -> pb::CaptionResponse {
    pb::CaptionResponse {
        id,
        model: reply.model,
        model_version: reply.model_version,
        captions: reply.captions.into_iter().map(caption).collect(),
    }
}

fn parameters(message: pb::GenerationParameters) -> Result<GenerationParameters, CaptionError> {
    let early_stopping = message
        .early_stopping
        .map(|word| echo(&word).parse().map_err(|reason: String| CaptionError::invalid("early_stopping", reason)));
    Ok(GenerationParameters {
        max_new_tokens: message.max_new_tokens,
        max_length: None,
        min_new_tokens: message.min_new_tokens,
        min_length: message.min_length,
        num_beams: message.num_beams,
        num_return_sequences: message.num_return_sequences,
        length_penalty: message.length_penalty,
        early_stopping: early_stopping.transpose()?,
        repetition_penalty: message.repetition_penalty,
        no_repeat_ngram_size: message.no_repeat_ngram_size,
        bad_words: (!message.bad_words.is_empty()).then_some(message.bad_words),
        do_sample: message.do_sample,
        temperature: message.temperature,
        top_k: message.top_k,
        top_p: message.top_p,
        seed: message.seed,
    })
}

fn caption(caption: Caption) -> pb::Caption {
    let finish_reason = match caption.finish_reason {
        FinishReason::Eos => pb::FinishReason::Eos,
        FinishReason::Length => pb::FinishReason::Length,
    };
    pb::Caption {
        text: caption.text,
        token_ids: caption.token_ids,
        score: caption.score,
        finish_reason: finish_reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use generation::EarlyStopping;

    fn convert(message: pb::CaptionRequest) -> Result<CaptionRequest, String> {
        let limits = ContentLimits { max_image_bytes: 10, max_images: 1, max_prompt_bytes: 10_000 };
        let deadline = Deadline::new(None, Duration::ZERO, 0);
        caption_request(message, limits, deadline).map_err(|error| error.to_string())
    }

    fn with(parameters: pb::GenerationParameters) -> Result<GenerationParameters, String> {
        let source = Some(Source::Image("image".into()));
        let message = pb::CaptionRequest { source, parameters: Some(parameters), ..Default::default() };
        convert(message).map(|request| request.parameters)
    }

    #[test]
    fn early_stopping_is_a_word() {
        let given = |word: &str| pb::GenerationParameters { early_stopping: Some(word.into()), ..Default::default() };
        assert_eq!(with(given("never")).unwrap().early_stopping, Some(EarlyStopping::Never));
        assert!(with(given("always")).unwrap_err().starts_with("early_stopping: must be true, false or \"never\""));
    }

    #[test]
    fn an_image_is_required_and_bounded() {
        assert_eq!(
            convert(pb::CaptionRequest::default()).unwrap_err(),
            "image: one of image_url and image is required"
        );
        let source = Some(Source::Image(vec![0; 11].into()));
        let error = convert(pb::CaptionRequest { source, ..Default::default() }).unwrap_err();
        assert_eq!(error, "image: is larger than the limit of 10 bytes");
    }
}
