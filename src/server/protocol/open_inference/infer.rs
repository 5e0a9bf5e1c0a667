//! What the tensors of an Open Inference request mean: images, prompts and generation parameters.
//!
//! N images give N (times `num_return_sequences`) rows, in the rank of the tensor of the images.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use crate::{
    caption::{CaptionRequest, ImageSource, Prompt},
    error::{CaptionError, IMAGE_URL_REFUSED},
    server::{
        middleware::deadline::Deadline,
        protocol::{
            ContentLimits, echo, image,
            json::wrong_type,
            new_request,
            open_inference::{
                request::{InferInput, InferRequest},
                response::{ResponseSpec, requested_outputs},
                tensor::Elements,
            },
            parameters, prompt,
        },
    },
};

/// Request-level parameters that other servers' clients send and that mean nothing here.
const RESERVED: [&str; 5] = ["sequence_id", "sequence_start", "sequence_end", "priority", "headers"];

/// Triton's parameter for how long the client waits, in microseconds; 0 means the server's limit.
const TIMEOUT: &str = "timeout";

/// The images of one inference request, each with its prompt and parameters.
#[derive(Debug)]
pub(crate) struct CaptionBatch {
    /// One per image.
    pub(crate) requests: Vec<CaptionRequest>,
    /// How to write the response.
    pub(crate) response_spec: ResponseSpec,
}

/// The inputs that have been read.
#[derive(Default)]
struct Inputs {
    images: Option<Vec<ImageSource>>,
    /// Dimensions of the tensor of the images, 1 or 2.
    rank: usize,
    prompts: Option<Vec<Option<Prompt>>>,
    /// The client's name for the prompts.
    prompt_field: &'static str,
    parameters: Map<String, Value>,
}

impl CaptionBatch {
    /// Checks the content of `request` to the model named `model`.
    pub(crate) fn new(
        mut request: InferRequest,
        model: &str,
        mut deadline: Deadline,
        limits: ContentLimits,
    ) -> Result<Self, CaptionError> {
        let is_binary = take_flag(&mut request, "binary_data_output")?;
        deadline.at = earlier(deadline.at, take_timeout(&mut request)?);
        let mut inputs = Inputs::default();
        let mut seen = HashSet::new();
        for input in request.inputs {
            let name = canonical(&input.name);
            if !seen.insert(name.to_owned()) {
                return Err(CaptionError::invalid(format!("{}.name", input.field), format!("'{name}' is given twice")));
            }
            inputs.add(name, &input, model, limits)?;
        }
        for (name, value) in request.parameters {
            if parameters::is_known(&name) {
                parameters::insert(&mut inputs.parameters, &name, value)?;
            } else if !RESERVED.contains(&name.as_str()) && !name.starts_with("triton_") {
                return Err(CaptionError::invalid(format!("parameters.{}", echo(&name)), "unknown parameter"));
            }
        }
        let outputs = requested_outputs(&request.outputs, is_binary, model)?;
        let images = inputs.images.ok_or_else(|| {
            CaptionError::invalid("img_url", "missing required input 'img_url' (or 'image' with the bytes of a file)")
        })?;
        let prompts = broadcast_prompts(inputs.prompts, inputs.prompt_field, images.len())?;
        let parameters = parameters::from_values(inputs.parameters)?;
        let requests = images.into_iter().zip(prompts).map(|(image, prompt)| CaptionRequest {
            model: Some(model.to_owned()),
            prompt,
            parameters: parameters.clone(),
            ..new_request(image, deadline)
        });
        let response_spec = ResponseSpec { id: request.id, rank: inputs.rank, outputs };
        Ok(Self { requests: requests.collect(), response_spec })
    }
}

impl Inputs {
    fn add(&mut self, name: &str, input: &InferInput, model: &str, limits: ContentLimits) -> Result<(), CaptionError> {
        match name {
            "img_url" => {
                let images = texts(input, model)?.into_iter().map(|text| image::from_url(text, limits));
                self.add_images(input, images, limits)
            }
            "image" => match &input.data {
                Elements::Bytes(files) if input.datatype == "BYTES" => {
                    self.add_images(input, files.iter().map(|file| image::from_bytes(file.clone(), limits)), limits)
                }
                _ => {
                    let images = texts(input, model)?.into_iter().map(|text| image::from_base64(text, limits));
                    self.add_images(input, images, limits)
                }
            },
            "text" => {
                self.prompt_field = if input.name == "prompt" { "prompt" } else { "text" };
                let prompts =
                    texts(input, model)?.into_iter().map(|text| prompt(self.prompt_field, Some(text), limits));
                self.prompts = Some(prompts.collect::<Result<_, _>>()?);
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
        self.images = Some(gather(images)?);
        self.rank = input.shape.len();
        Ok(())
    }

    fn add_parameter(&mut self, name: &str, input: &InferInput, model: &str) -> Result<(), CaptionError> {
        if !parameters::is_known(name) {
            let reason = format!("unexpected inference input '{}' for model '{model}'", echo(name));
            return Err(CaptionError::invalid(format!("{}.name", input.field), reason));
        }
        let mut values = match &input.data {
            Elements::Values(values) => values.clone(),
            Elements::Bytes(_) => texts(input, model)?.into_iter().map(Value::from).collect(),
        };
        let is_list = parameters::is_list(name);
        if !is_list && values.len() != 1 {
            let reason = format!("has {} elements, '{name}' takes one", values.len());
            return Err(CaptionError::invalid(input.data_field.clone(), reason));
        }
        let value = if is_list { Value::Array(values) } else { values.swap_remove(0) };
        parameters::insert(&mut self.parameters, name, value)
    }
}

/// The results in order, or all failures of images in one error that names their indices.
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
            Err(error) => failures.push(for_image(index, error)?),
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
fn for_image(index: usize, error: CaptionError) -> Result<(String, String), CaptionError> {
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

/// Takes a parameter of the request that is true or false; false if it is absent.
pub(crate) fn take_flag(request: &mut InferRequest, name: &'static str) -> Result<bool, CaptionError> {
    match request.parameters.remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(CaptionError::invalid(format!("parameters.{name}"), wrong_type("true or false", &other))),
    }
}

/// Takes the time that the client waits, if it is given.
fn take_timeout(request: &mut InferRequest) -> Result<Option<Duration>, CaptionError> {
    let Some(value) = request.parameters.remove(TIMEOUT) else { return Ok(None) };
    let microseconds = value.as_u64().ok_or_else(|| {
        CaptionError::invalid(format!("parameters.{TIMEOUT}"), wrong_type("a whole number of microseconds", &value))
    })?;
    Ok((microseconds > 0).then(|| Duration::from_micros(microseconds)))
}

/// The deadline, or the end of `timeout` from now if that is sooner.
fn earlier(deadline: Instant, timeout: Option<Duration>) -> Instant {
    // A timeout beyond the range of the clock is no limit.
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    end.map_or(deadline, |end| end.min(deadline))
}

/// The elements of a tensor of texts, at least one.
fn texts<'a>(input: &'a InferInput, model: &str) -> Result<Vec<&'a str>, CaptionError> {
    if input.datatype != "BYTES" {
        let (name, datatype) = (&input.name, &input.datatype);
        let reason = format!("inference input '{name}' data-type is '{datatype}', but model '{model}' expects 'BYTES'");
        return Err(CaptionError::invalid(format!("{}.datatype", input.field), reason));
    }
    match &input.data {
        // Elements of BYTES are strings, which was checked with the form.
        Elements::Values(values) => Ok(values.iter().map(|value| value.as_str().unwrap_or_default()).collect()),
        Elements::Bytes(elements) => {
            let texts = elements.iter().enumerate().map(|(index, element)| {
                let reason =
                    |_| CaptionError::invalid(input.data_field.clone(), format!("element {index} is not UTF-8"));
                std::str::from_utf8(element).map_err(reason)
            });
            texts.collect()
        }
    }
}

/// One prompt for each image, from as many as there are images, or from one for all.
fn broadcast_prompts(
    prompts: Option<Vec<Option<Prompt>>>,
    field: &'static str,
    images: usize,
) -> Result<Vec<Option<Prompt>>, CaptionError> {
    match prompts {
        None => Ok(vec![None; images]),
        Some(prompts) if prompts.len() == images => Ok(prompts),
        Some(prompts) if prompts.len() == 1 => Ok(vec![prompts[0].clone(); images]),
        Some(prompts) => {
            let reason = format!("has {} elements, expected 1 or one for each of the {images} images", prompts.len());
            Err(CaptionError::invalid(field, reason))
        }
    }
}
