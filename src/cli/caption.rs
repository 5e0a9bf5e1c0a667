//! `blip-serve caption`: captions without a server.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{CommandError, ModelArgs, generation::GenerationArgs, small_runtime};
use crate::{
    caption::{Caption, CaptionRequest, ImageSource, Prompt},
    captioner::Captioner,
    catalogue::Catalogue,
    config::ImageConfig,
    error::CaptionError,
    fetch::{decode_data_url, is_data_url},
    generation::{FinishReason, GenerationParameters, TokenId},
    registry::{Registry, ServedModel},
    telemetry::{self, Verbosity},
};

/// Caption images: one line each, path, tab, caption.
#[derive(Debug, Args)]
pub(super) struct CaptionImages {
    /// Files, or http, https and data: URLs
    #[arg(required = true, value_name = "IMAGE_OR_URL")]
    images: Vec<String>,

    /// A model's name, or a bundle's folder; the catalogue's default if not given
    #[arg(long)]
    model: Option<String>,

    /// Text that the caption continues
    #[arg(long)]
    prompt: Option<String>,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    image: ImageConfig,
    #[command(flatten)]
    model_args: ModelArgs,
}

#[derive(Serialize)]
struct CaptionLine<'a> {
    image: &'a str,
    sequence_index: usize,
    caption: &'a str,
    token_ids: &'a [TokenId],
    score: f32,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    image: &'a str,
    error: &'a str,
}

impl CaptionImages {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        telemetry::init(&self.model_args.log, Verbosity::Quiet)?;
        small_runtime()?.block_on(self.caption_all())
    }

    async fn caption_all(self) -> Result<ExitCode, CommandError> {
        let entry = Catalogue::select(&self.model_args.models, self.model.as_deref())?;
        let runtime = self.model_args.runtime()?;
        let model = ServedModel::load(&entry, &runtime).await?;
        let captioner = Captioner::new(Registry::of_one(model), &self.image).map_err(|error| error.to_string())?;
        let parameters = GenerationParameters::from(self.generation.clone());
        let mut exit = ExitCode::SUCCESS;
        for image in &self.images {
            let result = match self.source(image) {
                Ok(source) => {
                    let request = CaptionRequest {
                        model: None,
                        version: None,
                        image: source,
                        prompt: self.prompt.clone().map(|text| Prompt { text, field: "prompt" }),
                        parameters: parameters.clone(),
                        deadline: None,
                        cancelled: CancellationToken::new(),
                    };
                    captioner.caption(request).await.map_err(|error| explain(&error))
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(reply) => self.print_captions(image, &reply.captions)?,
                Err(error) => {
                    exit = ExitCode::FAILURE;
                    self.print_error(image, &error)?;
                }
            }
        }
        Ok(exit)
    }

    fn source(&self, image: &str) -> Result<ImageSource, String> {
        if let Some(url) = Url::parse(image).ok().filter(|url| matches!(url.scheme(), "http" | "https")) {
            return Ok(ImageSource::Url(url));
        }
        if is_data_url(image) {
            let bytes = decode_data_url(image, self.image.max_image_bytes).map_err(|error| explain(&error))?;
            return Ok(ImageSource::Bytes { bytes, field: "image" });
        }
        let size = Path::new(image).metadata().map_err(|error| error.to_string())?.len();
        if size > self.image.max_image_bytes as u64 {
            return Err(format!(
                "the file has {size} bytes, more than --max-image-bytes {}",
                self.image.max_image_bytes
            ));
        }
        let bytes = std::fs::read(image).map_err(|error| error.to_string())?;
        Ok(ImageSource::Bytes { bytes: bytes.into(), field: "image" })
    }

    fn print_captions(&self, image: &str, captions: &[Caption]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (sequence_index, caption) in captions.iter().enumerate() {
            let Caption { text, token_ids, score, finish_reason } = caption;
            if self.json {
                let line = CaptionLine {
                    image,
                    sequence_index,
                    caption: text,
                    token_ids,
                    score: *score,
                    finish_reason: FinishReason::as_str(*finish_reason),
                };
                serde_json::to_writer(&mut out, &line)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{image}\t{text}")?;
            }
        }
        out.flush()
    }

    fn print_error(&self, image: &str, error: &str) -> io::Result<()> {
        if self.json {
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &ErrorLine { image, error })?;
            return writeln!(out);
        }
        telemetry::say(&format!("{image}: {error}"));
        Ok(())
    }
}

/// An error for whoever runs the command: unlike a client of the service, they may know why a URL failed.
fn explain(error: &CaptionError) -> String {
    match error {
        CaptionError::ImageUrl { reason: "private_address", .. } => {
            format!("{error}: it leads to a private address, see --allow-private-networks")
        }
        CaptionError::ImageUrl { reason, source: Some(source) } => format!("{error}: {reason}: {source}"),
        CaptionError::ImageUrl { reason, source: None } => format!("{error}: {reason}"),
        _ => error.to_string(),
    }
}
