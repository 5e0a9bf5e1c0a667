//! What an Open Inference request means to us: images, prompts and generation parameters.
//!
//! N images give N (times `num_return_sequences`) rows, in the rank that the images came in.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    caption::{CaptionRequest, ImageSource, Prompt},
    error::{CaptionError, IMAGE_URL_REFUSED},
    server::protocol::{
        ContentLimits, echo, image,
        json::describe,
        open_inference::{
            request::{InferInput, InferRequest},
            response::{AnswerForm, outputs},
            tensor::Elements,
        },
        parameters, prompt,
    },
};
use generation::GenerationParameters;

/// Request-level parameters that other servers' clients send and that mean nothing here.
const RESERVED: [&str; 5] = ["sequence_id", "sequence_start", "sequence_end", "priority", "headers"];

/// Microseconds that the client waits, as Triton has it; 0: as long as the server.
const TIMEOUT: &str = "timeout";

/// An inference request with its meaning.
#[derive(Debug)]
pub(crate) struct Inference {
    /// One per image.
    pub(crate) requests: Vec<CaptionRequest>,
    form: AnswerForm,
}

/// The inputs by their meaning.
#[derive(Default)]
struct Inputs {
    images: Option<(Vec<ImageSource>, usize)>,
    texts: Option<(&'static str, Vec<Option<Prompt>>)>,
    parameters: GenerationParameters,
}

impl Inference {
    /// Checks the content of `request`; `envelope` holds all that it does not say itself (model, deadline, ...).
    pub(crate) fn new(
        mut request: InferRequest,
        envelope: &CaptionRequest,
        limits: ContentLimits,
    ) -> Result<Self, CaptionError> {
        let model = envelope.model.as_deref().unwrap_or_default();
        let binary = flag(&mut request, "binary_data_output")?;
        let deadline = earlier(envelope.deadline, timeout(&mut request)?);
        let mut inputs = Inputs::default();
        let mut seen = HashSet::new();
        for input in request.inputs {
            let name = canonical(&input.name);
            if !seen.insert(name.to_owned()) {
                return Err(CaptionError::invalid(format!("{}.name", input.field), format!("'{name}' is given twice")));
            }
            inputs.add(name, &input, model, limits)?;
        }
        for (name, value) in &request.parameters {
            let is_reserved = RESERVED.contains(&name.as_str()) || name.starts_with("triton_");
            match parameters::set(&mut inputs.parameters, name, value) {
                Some(outcome) => outcome?,
                None if is_reserved => {}
                None => {
                    return Err(CaptionError::invalid(format!("parameters.{}", echo(name)), "is no known parameter"));
                }
            }
        }
        let outputs = outputs(&request.outputs, binary, model)?;
        let (images, rank) = inputs.images.ok_or_else(|| {
            CaptionError::invalid("img_url", "missing required input 'img_url' (or 'image' with the bytes of a file)")
        })?;
        let prompts = spread(inputs.texts, images.len())?;
        let of_image = |(image, prompt)| CaptionRequest {
            image,
            prompt,
            deadline,
            parameters: inputs.parameters.clone(),
            ..envelope.clone()
        };
        let requests = images.into_iter().zip(prompts).map(of_image).collect();
        Ok(Self { requests, form: AnswerForm { id: request.id, rank, outputs } })
    }

    /// The requests, and how to write their answers.
    pub(crate) fn into_parts(self) -> (Vec<CaptionRequest>, AnswerForm) {
        (self.requests, self.form)
    }
}

impl Inputs {
    fn add(&mut self, name: &str, input: &InferInput, model: &str, limits: ContentLimits) -> Result<(), CaptionError> {
        match name {
            "img_url" => {
                let images = strings(input, model)?.into_iter().map(|text| image::from_url(text, limits));
                self.add_images(input, images, limits)
            }
            "image" => match &input.data {
                Elements::Bytes(files) if input.datatype == "BYTES" => {
                    self.add_images(input, files.iter().map(|file| image::from_bytes(file.clone(), limits)), limits)
                }
                _ => {
                    let images = strings(input, model)?.into_iter().map(|text| image::from_base64(text, limits));
                    self.add_images(input, images, limits)
                }
            },
            "text" => {
                let field = if input.name == "prompt" { "prompt" } else { "text" };
                let texts = strings(input, model)?.into_iter().map(|text| prompt(field, text, limits));
                self.texts = Some((field, texts.collect::<Result<_, _>>()?));
                Ok(())
            }
            name => self.add_parameter(name, input, model),
        }
    }

    fn add_images(
        &mut self,
        input: &InferInput,
        images: impl ExactSizeIterator<Item = Result<ImageSource, CaptionError>>,
        limits: ContentLimits,
    ) -> Result<(), CaptionError> {
        if self.images.is_some() {
            return Err(CaptionError::invalid(input.name.clone(), "only one of img_url and image can be given"));
        }
        let count = images.len();
        if count > limits.max_images {
            let reason = format!("has {count} elements, more than the limit of {} images", limits.max_images);
            return Err(CaptionError::invalid(input.data_field.clone(), reason));
        }
        if input.shape.get(1).is_some_and(|width| *width != 1) {
            let reason = format!("unexpected shape {:?} for '{}', expected [N] or [N, 1]", input.shape, input.name);
            return Err(CaptionError::invalid(format!("{}.shape", input.field), reason));
        }
        self.images = Some((gather(images)?, input.shape.len()));
        Ok(())
    }

    fn add_parameter(&mut self, name: &str, input: &InferInput, model: &str) -> Result<(), CaptionError> {
        if !parameters::is_known(name) {
            let reason = format!("unexpected inference input '{}' for model '{model}'", echo(name));
            return Err(CaptionError::invalid(format!("{}.name", input.field), reason));
        }
        let mut values = match &input.data {
            Elements::Values(values) => values.clone(),
            Elements::Bytes(_) => strings(input, model)?.into_iter().map(Value::from).collect(),
        };
        let is_list = name == "bad_words";
        if !is_list && values.len() != 1 {
            let reason = format!("has {} elements, '{name}' takes one", values.len());
            return Err(CaptionError::invalid(input.data_field.clone(), reason));
        }
        let value = if is_list { Value::Array(values) } else { values.swap_remove(0) };
        parameters::set(&mut self.parameters, name, &value).unwrap_or(Ok(()))
    }
}

/// The results in order, or all failures of images in one error that names their places.
pub(crate) fn gather<T>(
    results: impl ExactSizeIterator<Item = Result<T, CaptionError>>,
) -> Result<Vec<T>, CaptionError> {
    let count = results.len();
    let mut values = Vec::with_capacity(count);
    let mut failures: Vec<(String, String)> = vec![];
    for (index, result) in results.enumerate() {
        match result {
            Ok(value) => values.push(value),
            Err(error) if count == 1 => return Err(error),
            Err(error) => failures.push(of_image(index, error)?),
        }
    }
    let mut failures = failures.into_iter();
    let Some((field, mut reason)) = failures.next() else { return Ok(values) };
    for (field, more) in failures {
        reason = format!("{reason}; {field}: {more}");
    }
    Err(CaptionError::invalid(field, reason))
}

/// Field and reason of an error that belongs to one image of several; any other error is the request's.
fn of_image(index: usize, error: CaptionError) -> Result<(String, String), CaptionError> {
    match error {
        CaptionError::ImageUrl { reason, source } => {
            tracing::debug!(index, reason, source = source.map(tracing::field::display), "image URL refused");
            Ok((format!("img_url[{index}]"), IMAGE_URL_REFUSED.to_owned()))
        }
        CaptionError::InvalidArgument { field, reason }
            if ["image", "img_url", "text", "prompt"].contains(&field.as_ref()) =>
        {
            Ok((format!("{field}[{index}]"), reason))
        }
        other => Err(other),
    }
}

/// The one name of each input.
fn canonical(name: &str) -> &str {
    match name {
        "image_url" => "img_url",
        "prompt" => "text",
        name => name,
    }
}

/// A parameter of the request that is true or false; false if it is not there.
pub(crate) fn flag(request: &mut InferRequest, name: &'static str) -> Result<bool, CaptionError> {
    match request.parameters.remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => {
            let reason = format!("must be true or false, got {}", describe(&other));
            Err(CaptionError::invalid(format!("parameters.{name}"), reason))
        }
    }
}

/// How long the client waits, if it says so.
fn timeout(request: &mut InferRequest) -> Result<Option<Duration>, CaptionError> {
    let Some(value) = request.parameters.remove(TIMEOUT) else { return Ok(None) };
    let microseconds = value.as_u64().ok_or_else(|| {
        let reason = format!("must be a whole number of microseconds, got {}", describe(&value));
        CaptionError::invalid(format!("parameters.{TIMEOUT}"), reason)
    })?;
    Ok((microseconds > 0).then(|| Duration::from_micros(microseconds)))
}

/// The deadline, or the end of this time from now if that is sooner.
fn earlier(deadline: Option<Instant>, timeout: Option<Duration>) -> Option<Instant> {
    // One beyond the clock is none.
    let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    [deadline, own].into_iter().flatten().min()
}

/// The elements of a tensor of text, at least one.
fn strings<'a>(input: &'a InferInput, model: &str) -> Result<Vec<&'a str>, CaptionError> {
    if input.datatype != "BYTES" {
        let (name, datatype) = (&input.name, &input.datatype);
        let reason = format!("inference input '{name}' data-type is '{datatype}', but model '{model}' expects 'BYTES'");
        return Err(CaptionError::invalid(format!("{}.datatype", input.field), reason));
    }
    match &input.data {
        // Elements of BYTES are strings: checked with the form.
        Elements::Values(values) => Ok(values.iter().map(|value| value.as_str().unwrap_or_default()).collect()),
        Elements::Bytes(elements) => {
            let texts = elements.iter().enumerate().map(|(index, element)| {
                let reason =
                    |_| CaptionError::invalid(input.data_field.clone(), format!("element {index} is no UTF-8"));
                std::str::from_utf8(element).map_err(reason)
            });
            texts.collect()
        }
    }
}

/// One prompt for each image: as many as there are images, or one for all.
fn spread(
    texts: Option<(&'static str, Vec<Option<Prompt>>)>,
    images: usize,
) -> Result<Vec<Option<Prompt>>, CaptionError> {
    match texts {
        None => Ok(vec![None; images]),
        Some((_, texts)) if texts.len() == images => Ok(texts),
        Some((_, texts)) if texts.len() == 1 => Ok(vec![texts[0].clone(); images]),
        Some((name, texts)) => {
            let reason = format!("has {} elements, expected 1 or one for each of the {images} images", texts.len());
            Err(CaptionError::invalid(name, reason))
        }
    }
}
