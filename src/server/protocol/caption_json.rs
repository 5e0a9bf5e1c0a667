//! The short requests of `/v1/captions` and `generate`: one image, one object of named fields.
//!
//! Unlike the Open Inference request, an unknown field is a mistake here: nobody but this server decides what they are.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    caption::{CaptionRequest, ImageSource},
    error::CaptionError,
    server::{
        middleware::deadline::Deadline,
        protocol::{ContentLimits, echo, image, json::describe, open_inference::request::check_id, parameters, prompt},
    },
};
use generation::GenerationParameters;

/// A request as an object; from JSON, or from the fields of a form.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    /// The bytes of a file, which JSON cannot hold.
    file: Option<Bytes>,
}

/// What a route calls its text, and what else it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The field of the prompt.
    pub(crate) prompt: &'static str,
    /// Whether generation parameters may stand beside the image, not only in `parameters`.
    pub(crate) flat_parameters: bool,
}

impl Fields {
    /// The members of a JSON object. `null` is the same as nothing.
    pub(crate) fn from_json(body: Value) -> Result<Self, CaptionError> {
        match body {
            Value::Object(values) => {
                Ok(Self { values: values.into_iter().filter(|(_, value)| !value.is_null()).collect(), file: None })
            }
            other => Err(wrong("body", "an object", &other)),
        }
    }

    /// Adds a field of a form: text that is a number or a truth value becomes one, but for words and names.
    pub(crate) fn add_text(&mut self, name: &str, text: String) -> Result<(), CaptionError> {
        let is_text = !parameters::is_known(name) || name == "bad_words";
        let value = match text.as_str() {
            "true" if !is_text => Value::Bool(true),
            "false" if !is_text => Value::Bool(false),
            // Only a number is tried: any other JSON in a field of a form is text.
            number if !is_text => number.parse().map(Value::Number).unwrap_or(Value::String(text)),
            _ => Value::String(text),
        };
        match self.values.get_mut(name) {
            None => {
                let value = if name == "bad_words" { Value::Array(vec![value]) } else { value };
                self.values.insert(name.to_owned(), value);
                Ok(())
            }
            Some(Value::Array(words)) => {
                words.push(value);
                Ok(())
            }
            Some(_) => Err(twice(name)),
        }
    }

    /// Adds the parameters that a form has in one field, as the text of a JSON object.
    pub(crate) fn add_parameters(&mut self, parameters: Value) -> Result<(), CaptionError> {
        match self.values.insert("parameters".to_owned(), parameters) {
            None => Ok(()),
            Some(_) => Err(twice("parameters")),
        }
    }

    /// Adds the file of a form.
    pub(crate) fn add_file(&mut self, file: Bytes) -> Result<(), CaptionError> {
        match self.file.replace(file) {
            None => Ok(()),
            Some(_) => Err(twice("image")),
        }
    }

    /// A text, if it is there.
    pub(crate) fn take_text(&mut self, name: &'static str) -> Result<Option<String>, CaptionError> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// True or false, if it is there.
    pub(crate) fn take_flag(&mut self, name: &'static str) -> Result<Option<bool>, CaptionError> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// The id to be echoed.
    pub(crate) fn take_id(&mut self) -> Result<Option<String>, CaptionError> {
        self.take_text("id")?.map(check_id).transpose()
    }

    /// Everything that is left, as a request to `model`.
    pub(crate) fn into_request(
        mut self,
        route: Route,
        model: Option<String>,
        limits: ContentLimits,
        deadline: Deadline,
    ) -> Result<CaptionRequest, CaptionError> {
        let image = self.take_image(limits)?;
        let prompt =
            self.take_text(route.prompt)?.map(|text| prompt(route.prompt, &text, limits)).transpose()?.flatten();
        let mut generation = GenerationParameters::default();
        match self.values.remove("parameters") {
            None => {}
            Some(Value::Object(own)) => set_all(&mut generation, own, "parameters.")?,
            Some(other) => return Err(wrong("parameters", "an object", &other)),
        }
        if route.flat_parameters {
            set_all(&mut generation, self.values, "")?;
        } else if let Some(name) = self.values.keys().next() {
            return Err(unknown(name));
        }
        Ok(CaptionRequest {
            model,
            version: None,
            image,
            prompt,
            parameters: generation,
            deadline: Some(deadline.at),
            caller: deadline.caller,
            cancelled: tokio_util::sync::CancellationToken::new(),
        })
    }

    fn take_image(&mut self, limits: ContentLimits) -> Result<ImageSource, CaptionError> {
        let url = match (self.take_text("image_url")?, self.take_text("img_url")?) {
            (Some(_), Some(_)) => {
                return Err(CaptionError::invalid("img_url", "is another name of image_url: give one"));
            }
            (url, alias) => url.or(alias),
        };
        match (url, self.take_text("image")?, self.file.take()) {
            (Some(url), None, None) => image::from_url(&url, limits),
            (None, Some(text), None) => image::from_base64(&text, limits),
            (None, None, Some(file)) => image::from_bytes(file, limits),
            (None, None, None) => Err(CaptionError::invalid("image", "one of image_url and image is required")),
            _ => Err(CaptionError::invalid("image", "only one of image_url and image can be given")),
        }
    }
}

fn set_all(
    generation: &mut GenerationParameters,
    values: Map<String, Value>,
    prefix: &str,
) -> Result<(), CaptionError> {
    for (name, value) in values.into_iter().filter(|(_, value)| !value.is_null()) {
        parameters::set(generation, &name, &value).unwrap_or_else(|| Err(unknown(&format!("{prefix}{name}"))))?;
    }
    Ok(())
}

fn wrong(field: &'static str, expected: &str, value: &Value) -> CaptionError {
    CaptionError::invalid(field, format!("must be {expected}, got {}", describe(value)))
}

fn unknown(name: &str) -> CaptionError {
    CaptionError::invalid(echo(name), "is no known field")
}

fn twice(name: &str) -> CaptionError {
    CaptionError::invalid(echo(name), "is given twice")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const CAPTIONS: Route = Route { prompt: "prompt", flat_parameters: false };
    const GENERATE: Route = Route { prompt: "text_input", flat_parameters: true };

    fn read(fields: Fields, route: Route) -> Result<CaptionRequest, String> {
        let deadline = Deadline::new(None, Duration::ZERO, 0);
        let limits = ContentLimits { max_image_bytes: 10, max_images: 1, max_prompt_bytes: 10_000 };
        fields.into_request(route, None, limits, deadline).map_err(|error| error.to_string())
    }

    fn json(body: Value, route: Route) -> Result<CaptionRequest, String> {
        read(Fields::from_json(body).map_err(|error| error.to_string())?, route)
    }

    #[test]
    fn an_object_has_an_image_a_prompt_and_parameters() {
        let request =
            json(json!({"image": "aGk=", "prompt": "a", "parameters": {"num_beams": 3}, "img_url": null}), CAPTIONS);
        let request = request.unwrap();
        assert_eq!(
            (request.prompt.as_ref().map(|prompt| prompt.text.as_str()), request.parameters.num_beams),
            (Some("a"), Some(3))
        );
        let request = json(json!({"image_url": "http://x/", "text_input": "", "top_k": 3}), GENERATE).unwrap();
        assert_eq!((request.prompt, request.parameters.top_k), (None, Some(3)));
    }

    #[test]
    fn every_mistake_names_its_field() {
        for (body, start) in [
            (json!([]), "body: must be an object"),
            (json!({}), "image: one of image_url and image is required"),
            (json!({"image": "aGk=", "image_url": "http://x/"}), "image: only one of"),
            (json!({"img_url": "http://x/", "image_url": "http://x/"}), "img_url: is another name"),
            (json!({"image": 5}), "image: must be a string, got 5"),
            (json!({"image": "aGk=", "prompt": ["a"]}), "prompt: must be a string"),
            (json!({"image": "aGk=", "propmt": "a"}), "propmt: is no known field"),
            (json!({"image": "aGk=", "num_beams": 3}), "num_beams: is no known field"),
            (json!({"image": "aGk=", "parameters": []}), "parameters: must be an object"),
            (json!({"image": "aGk=", "parameters": {"beams": 3}}), "parameters.beams: is no known field"),
            (json!({"image": "aGk=", "parameters": {"num_beams": "3"}}), "num_beams: must be an integer"),
        ] {
            let text = json(body, CAPTIONS).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
        let twice = json!({"image": "aGk=", "num_beams": 3, "parameters": {"num_beams": 3}});
        assert_eq!(json(twice, GENERATE).unwrap_err(), "num_beams: is given more than once");
    }

    #[test]
    fn a_form_has_numbers_as_text_and_words_more_than_once() {
        let mut fields = Fields::default();
        fields.add_file("hi".into()).unwrap();
        for (name, text) in [
            ("num_beams", "3"),
            ("prompt", "7"),
            ("bad_words", "5"),
            ("bad_words", "true"),
            ("early_stopping", "never"),
        ] {
            fields.add_text(name, text.to_owned()).unwrap();
        }
        assert!(fields.add_text("prompt", "8".into()).is_err() && fields.add_file("ho".into()).is_err());
        let request = read(fields, Route { prompt: "prompt", flat_parameters: true }).unwrap();
        assert_eq!(
            (request.prompt.as_ref().map(|prompt| prompt.text.as_str()), request.parameters.num_beams),
            (Some("7"), Some(3))
        );
        assert_eq!(request.parameters.bad_words.unwrap(), ["5", "true"]);
    }
}
