//! The bodies of `/v1/captions`, `generate` and `generate_stream`: one image with named fields instead of tensors.
//!
//! Each is one struct, which both reads the body and describes it in the API document. Unlike in an Open Inference
//! request, an unknown field is an error here; `null` is the same as no value.

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use crate::{
    caption::CaptionRequest,
    error::CaptionError,
    server::{
        middleware::deadline::Deadline,
        protocol::{
            ContentLimits, echo, image, json, new_request,
            open_inference::request::{MAX_ENTRIES, check_id},
            parameters::{self, RequestParameters},
            prompt,
        },
    },
};
use generation::GenerationParameters;

/// One image, `image_url` or `image`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CaptionRequest)]
pub(crate) struct CaptionBody {
    /// Returned unchanged in the response.
    #[serde(default, deserialize_with = "id")]
    #[schema(max_length = 1024)]
    pub(crate) id: Option<String>,
    /// Name or alias; the default model if not given.
    pub(crate) model: Option<String>,
    /// http, https or data: URL.
    #[serde(alias = "img_url")]
    #[schema(example = "https://example.com/cat.jpg")]
    image_url: Option<String>,
    /// The base64 of an image file.
    image: Option<String>,
    /// Text that the caption continues.
    #[schema(max_length = 16384)]
    prompt: Option<String>,
    #[schema(value_type = Option<GenerationParameters>)]
    parameters: Option<RequestParameters>,
}

/// One image as a form: generation parameters are fields of the form, or together in `parameters` as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptionForm {
    /// Returned unchanged in the response.
    #[serde(default, deserialize_with = "id")]
    #[schema(nullable = false, max_length = 1024)]
    pub(crate) id: Option<String>,
    /// Name or alias; the default model if not given.
    #[schema(nullable = false)]
    pub(crate) model: Option<String>,
    /// http, https or data: URL.
    #[serde(alias = "img_url")]
    #[schema(nullable = false)]
    image_url: Option<String>,
    /// An image file; or `image_url`.
    #[serde(default, deserialize_with = "file")]
    #[schema(nullable = false, value_type = Option<String>, format = Binary, content_media_type = "application/octet-stream")]
    image: Option<Bytes>,
    /// Text that the caption continues.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// Generation parameters, as the text of a JSON object.
    #[schema(nullable = false, value_type = Option<String>)]
    parameters: Option<RequestParameters>,
}

/// One image, `image_url` or `image`; any generation parameter may stand beside it too.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GenerateRequest)]
pub(crate) struct GenerateBody {
    /// Returned unchanged in the response.
    #[serde(default, deserialize_with = "id")]
    #[schema(max_length = 1024)]
    pub(crate) id: Option<String>,
    /// http, https or data: URL.
    #[serde(alias = "img_url")]
    #[schema(example = "https://example.com/cat.jpg")]
    image_url: Option<String>,
    /// The base64 of an image file.
    image: Option<String>,
    /// Text that the caption continues.
    #[schema(max_length = 16384)]
    text_input: Option<String>,
    #[schema(value_type = Option<GenerationParameters>)]
    parameters: Option<RequestParameters>,
    /// Whether events are expected: `true` is refused by `generate`.
    pub(crate) stream: Option<bool>,
}

impl CaptionBody {
    /// Reads a JSON body.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, CaptionError> {
        let mut object = json::parse_object("body", body)?;
        remove_nulls(&mut object);
        from_object(object)
    }

    /// Checks the content.
    pub(crate) fn into_request(
        self,
        limits: ContentLimits,
        deadline: Deadline,
    ) -> Result<CaptionRequest, CaptionError> {
        let image = image::from_either(self.image_url, self.image, |text| image::from_base64(&text, limits), limits)?;
        Ok(CaptionRequest {
            model: self.model,
            prompt: prompt("prompt", self.prompt.as_deref(), limits)?,
            parameters: self.parameters.unwrap_or_default().0,
            ..new_request(image, deadline)
        })
    }
}

impl CaptionForm {
    /// Checks the content.
    pub(crate) fn into_request(
        self,
        limits: ContentLimits,
        deadline: Deadline,
    ) -> Result<CaptionRequest, CaptionError> {
        let image = image::from_either(self.image_url, self.image, |file| image::from_bytes(file, limits), limits)?;
        Ok(CaptionRequest {
            model: self.model,
            prompt: prompt("prompt", self.prompt.as_deref(), limits)?,
            parameters: self.parameters.unwrap_or_default().0,
            ..new_request(image, deadline)
        })
    }
}

impl GenerateBody {
    /// Reads a JSON body.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, CaptionError> {
        let mut object = json::parse_object("body", body)?;
        remove_nulls(&mut object);
        move_parameters(&mut object)?;
        from_object(object)
    }

    /// Checks the content of a request to the model named `model`.
    pub(crate) fn into_request(
        self,
        model: String,
        limits: ContentLimits,
        deadline: Deadline,
    ) -> Result<CaptionRequest, CaptionError> {
        let image = image::from_either(self.image_url, self.image, |text| image::from_base64(&text, limits), limits)?;
        Ok(CaptionRequest {
            model: Some(model),
            prompt: prompt("text_input", self.text_input.as_deref(), limits)?,
            parameters: self.parameters.unwrap_or_default().0,
            ..new_request(image, deadline)
        })
    }
}

/// The parts of a form, as they arrive.
#[derive(Debug, Default)]
pub(crate) struct FormParts {
    texts: Map<String, Value>,
    image: Option<Bytes>,
    count: usize,
}

impl FormParts {
    /// Adds a part. `image` is a file, `parameters` JSON, everything else text.
    pub(crate) fn add(&mut self, name: &str, bytes: Bytes) -> Result<(), CaptionError> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(CaptionError::invalid("body", format!("must have at most {MAX_ENTRIES} fields")));
        }
        if name == "image" {
            return if self.image.replace(bytes).is_none() { Ok(()) } else { Err(given_twice(name)) };
        }
        let text = String::from_utf8(bytes.into())
            .map_err(|_| CaptionError::invalid(echo(name), "must be UTF-8; a file goes into the field image"))?;
        let value = if name == "parameters" {
            Value::Object(json::parse_object("parameters", text.as_bytes())?)
        } else {
            typed_value(name, text)
        };
        match self.texts.get_mut(name) {
            None => drop(self.texts.insert(name.to_owned(), value)),
            Some(Value::Array(list)) => list.push(value),
            Some(one) if parameters::is_list(name) => *one = Value::Array(vec![one.take(), value]),
            Some(_) => return Err(given_twice(name)),
        }
        Ok(())
    }

    /// The form, when all parts are there.
    pub(crate) fn into_form(mut self) -> Result<CaptionForm, CaptionError> {
        remove_nulls(&mut self.texts);
        move_parameters(&mut self.texts)?;
        let form = from_object::<CaptionForm>(self.texts)?;
        Ok(CaptionForm { image: self.image, ..form })
    }
}

/// A parameter that is a number or a truth value is written as text in a form. Any other text is unchanged.
fn typed_value(name: &str, text: String) -> Value {
    if !parameters::is_known(name) || parameters::is_list(name) {
        return Value::String(text);
    }
    match text.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        number => number.parse::<Number>().map(Value::Number).unwrap_or(Value::String(text)),
    }
}

/// Moves the generation parameters that stand beside the image to the others.
fn move_parameters(object: &mut Map<String, Value>) -> Result<(), CaptionError> {
    let (beside, mut rest): (Map<_, _>, Map<_, _>) =
        std::mem::take(object).into_iter().partition(|(name, _)| parameters::is_known(name));
    if !beside.is_empty() {
        let inside = rest.entry("parameters").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(inside) = inside {
            beside.into_iter().try_for_each(|(name, value)| parameters::insert(inside, &name, value))?;
        }
    }
    *object = rest;
    Ok(())
}

/// `null` is the same as no value.
fn remove_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    if let Some(Value::Object(parameters)) = object.get_mut("parameters") {
        remove_nulls(parameters);
    }
}

/// Reads a body. An error names a parameter without its path.
fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, CaptionError> {
    if object.contains_key("image_url") && object.contains_key("img_url") {
        return Err(CaptionError::invalid("img_url", "is another name of image_url: give only one"));
    }
    json::from_value(Value::Object(object)).map_err(|error| match error {
        CaptionError::InvalidArgument { field, reason } => {
            let name = field.strip_prefix("parameters.").filter(|name| parameters::is_known(name));
            CaptionError::invalid(name.unwrap_or(&field).to_owned(), reason)
        }
        other => other,
    })
}

fn given_twice(name: &str) -> CaptionError {
    CaptionError::invalid(echo(name), "is given twice")
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)?.map(check_id).transpose().map_err(D::Error::custom)
}

/// A file is never among the texts of a form: [`FormParts::into_form`] adds it.
fn file<'de, D: Deserializer<'de>>(_: D) -> Result<Option<Bytes>, D::Error> {
    Err(D::Error::custom("must be a file"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn deadline() -> Deadline {
        Deadline::new(None, Duration::ZERO, 0)
    }

    const LIMITS: ContentLimits = ContentLimits { max_image_bytes: 10, max_images: 1, max_prompt_bytes: 10_000 };

    fn captions(body: &Value) -> Result<CaptionRequest, String> {
        let body = CaptionBody::from_json(body.to_string().as_bytes());
        body.and_then(|body| body.into_request(LIMITS, deadline())).map_err(|error| error.to_string())
    }

    fn generate(body: &Value) -> Result<CaptionRequest, String> {
        let body = GenerateBody::from_json(body.to_string().as_bytes());
        body.and_then(|body| body.into_request("m".to_owned(), LIMITS, deadline())).map_err(|error| error.to_string())
    }

    fn prompt_of(request: &CaptionRequest) -> Option<&str> {
        request.prompt.as_ref().map(|prompt| prompt.text.as_str())
    }

    #[test]
    fn an_object_has_an_image_a_prompt_and_parameters() {
        let body = json!({
            "image": "aGk=", "prompt": "a", "parameters": {"num_beams": 3, "top_k": null, "x": null}, "img_url": null, "y": null,
        });
        let request = captions(&body).unwrap();
        assert_eq!((prompt_of(&request), request.parameters.num_beams), (Some("a"), Some(3)));
        let body = json!({"image_url": "http://x/", "text_input": "", "top_k": 3, "min_length": 2, "parameters": {"min_new_tokens": 1}});
        let request = generate(&body).unwrap();
        assert_eq!((request.prompt, request.parameters.top_k), (None, Some(3)));
        assert_eq!((request.parameters.min_length, request.parameters.min_new_tokens), (Some(2), Some(1)));
    }

    #[test]
    fn every_mistake_names_its_field() {
        let long = "x".repeat(1025);
        for (body, start) in [
            (json!([]), "body: must be an object, got an array"),
            (json!({}), "image: one of image_url and image is required"),
            (json!({"image": "aGk=", "image_url": "http://x/"}), "image: only one of"),
            (json!({"img_url": "http://x/", "image_url": "http://x/"}), "img_url: is another name of image_url"),
            (json!({"image": 5}), "image: must be a string, got 5"),
            (json!({"image": "aGk=", "prompt": ["a"]}), "prompt: must be a string, got an array"),
            (json!({"image": "aGk=", "id": 7}), "id: must be a string, got 7"),
            (json!({"image": "aGk=", "id": long}), "id: must be at most 1024 bytes, got 1025"),
            (json!({"image": "aGk=", "propmt": "a"}), "propmt: unknown field, must be one of id, model, image_url, "),
            (json!({"image": "aGk=", "num_beams": 3}), "num_beams: unknown field"),
            (json!({"image": "aGk=", "parameters": []}), "parameters: must be an object"),
            (json!({"image": "aGk=", "parameters": {"beams": 3}}), "parameters.beams: unknown field"),
            (json!({"image": "aGk=", "parameters": {"max_length": 3}}), "parameters: unknown field max_length"),
            (json!({"image": "aGk=", "parameters": {"num_beams": "3"}}), "num_beams: must be an integer"),
        ] {
            let text = captions(&body).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
        let both = json!({"image": "aGk=", "num_beams": 3, "parameters": {"num_beams": 3}});
        assert_eq!(generate(&both).unwrap_err(), "num_beams: is given more than once");
        for (body, start) in [
            (json!({"image": "aGk=", "num_beams": "3"}), "num_beams: must be an integer"),
            (json!({"image": "aGk=", "num_beams": 3, "parameters": 7}), "parameters: must be an object, got 7"),
            (json!({"image": "aGk=", "stream": 1}), "stream: must be true or false, got 1"),
            (json!({"image": "aGk=", "model": "m"}), "model: unknown field"),
        ] {
            let text = generate(&body).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
    }

    fn form(parts: &[(&str, &'static str)]) -> Result<CaptionRequest, String> {
        let mut form = FormParts::default();
        let read = parts.iter().try_for_each(|(name, text)| form.add(name, Bytes::from_static(text.as_bytes())));
        let read = read.and_then(|()| form.into_form()).and_then(|form| form.into_request(LIMITS, deadline()));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn a_form_has_numbers_as_text_and_words_more_than_once() {
        let request = form(&[
            ("image", "hi"),
            ("num_beams", "3"),
            ("prompt", "7"),
            ("bad_words", "5"),
            ("bad_words", "true"),
            ("early_stopping", "never"),
        ]);
        let request = request.unwrap();
        assert_eq!((prompt_of(&request), request.parameters.num_beams), (Some("7"), Some(3)));
        assert_eq!(request.parameters.bad_words.unwrap(), ["5", "true"]);
        let request = form(&[("image", "hi"), ("parameters", r#"{"top_k": 3}"#), ("do_sample", "true")]).unwrap();
        assert_eq!((request.parameters.top_k, request.parameters.do_sample), (Some(3), Some(true)));
    }

    #[test]
    fn a_part_of_a_form_comes_once_and_has_its_type() {
        for (parts, start) in [
            (&[("image", "hi"), ("prompt", "7"), ("prompt", "8")][..], "prompt: is given twice"),
            (&[("image", "hi"), ("image", "ho")], "image: is given twice"),
            (&[("image", "hi"), ("num_beams", "x")], "num_beams: must be an integer"),
            (&[("image", "hi"), ("parameters", "{")], "parameters: not valid JSON"),
            (&[("image", "hi"), ("parameters", "[]")], "parameters: must be an object"),
            (&[("image", "hi"), ("parameters", "null")], "parameters: must be an object, got null"),
            (&[("image", "hi"), ("file", "ho")], "file: unknown field"),
            (&[("id", "x"); 40], "id: is given twice"),
            (&[("bad_words", "x"); 40], "body: must have at most 32 fields"),
        ] {
            let text = form(parts).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
    }
}
