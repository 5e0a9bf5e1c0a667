//! Generation parameters of requests: their names and types are those of [`GenerationParameters`].
//!
//! Only types are checked; bounds are checked by `GenerationConfig`, which has the configured limits.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{error::CaptionError, server::protocol::json};
use generation::{GenerationParameters, ParameterMut};

/// The `parameters` of a request: all but `max_length`, which only models.toml and bundles may set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "GenerationParameters")]
pub(crate) struct RequestParameters(pub(crate) GenerationParameters);

impl TryFrom<GenerationParameters> for RequestParameters {
    type Error = &'static str;

    fn try_from(parameters: GenerationParameters) -> Result<Self, &'static str> {
        if parameters.max_length.is_none() { Ok(Self(parameters)) } else { Err("unknown field max_length") }
    }
}

/// Whether a request may have a parameter of this name.
pub(crate) fn is_known(name: &str) -> bool {
    GenerationParameters::default().request_parameter(name).is_some()
}

/// Whether this parameter is a list of texts.
pub(crate) fn is_list(name: &str) -> bool {
    matches!(GenerationParameters::default().request_parameter(name), Some(ParameterMut::Strings(_)))
}

/// Adds a parameter to those that have been read so far.
pub(crate) fn insert(parameters: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), CaptionError> {
    if value.is_null() {
        // A float that is not finite becomes null.
        return Err(CaptionError::invalid(name.to_owned(), "must be finite"));
    }
    match parameters.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(CaptionError::invalid(name.to_owned(), "is given more than once")),
    }
}

/// Checks the types of parameters by name.
pub(crate) fn from_values(values: Map<String, Value>) -> Result<GenerationParameters, CaptionError> {
    json::from_value::<RequestParameters>(Value::Object(values)).map(|RequestParameters(parameters)| parameters)
}

#[cfg(test)]
mod tests {
    use generation::EarlyStopping;
    use serde_json::json;

    use super::*;

    fn one(name: &str, value: &Value) -> Result<GenerationParameters, String> {
        from_values(Map::from_iter([(name.to_owned(), value.clone())])).map_err(|error| error.to_string())
    }

    #[test]
    fn every_parameter_but_max_length_is_known() {
        let all = serde_json::to_value(GenerationParameters::default()).unwrap();
        let known = all.as_object().unwrap().keys().filter(|name| is_known(name));
        assert_eq!(known.count(), 15);
        assert!(is_list("bad_words") && !is_list("num_beams"));
        assert!(is_known("num_beams") && !is_known("max_length") && !is_known("num_beam"));
        assert_eq!(one("max_length", &json!(5)).unwrap_err(), "body: unknown field max_length");
    }

    #[test]
    fn a_whole_float_passes_for_an_integer_and_nothing_else_does() {
        assert_eq!(one("num_beams", &json!(5.0)).unwrap().num_beams, Some(5));
        assert_eq!(one("seed", &json!(u64::MAX)).unwrap().seed, Some(u64::MAX));
        for bad in [json!(5.5), json!("5"), json!(-1), json!(true), json!([5]), json!(4_294_967_296_u64)] {
            let text = one("num_beams", &bad).unwrap_err();
            assert!(text.starts_with("num_beams: must be an integer"), "{bad}: {text}");
        }
        assert!(one("seed", &json!(1e300)).is_err());
    }

    #[test]
    fn types_are_strict() {
        assert_eq!(one("length_penalty", &json!(-1)).unwrap().length_penalty, Some(-1.0));
        assert_eq!(one("early_stopping", &json!("never")).unwrap().early_stopping, Some(EarlyStopping::Never));
        assert_eq!(one("early_stopping", &json!(true)).unwrap().early_stopping, Some(EarlyStopping::True));
        assert_eq!(one("bad_words", &json!(["a", "b"])).unwrap().bad_words.unwrap(), ["a", "b"]);
        assert_eq!(one("bad_words", &json!("a")).unwrap().bad_words.unwrap(), ["a"]);
        for (name, bad, field) in [
            ("length_penalty", json!("1"), "length_penalty"),
            ("do_sample", json!(1), "do_sample"),
            ("early_stopping", json!("x"), "early_stopping"),
            ("early_stopping", json!(1), "early_stopping"),
            ("bad_words", json!(["a", 1]), "bad_words[1]"),
        ] {
            assert!(one(name, &bad).unwrap_err().starts_with(&format!("{field}: must be ")), "{name}");
        }
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let mut parameters = Map::from_iter([("top_k".to_owned(), json!(1))]);
        let error = insert(&mut parameters, "top_k", json!(2)).unwrap_err();
        assert_eq!(error.to_string(), "top_k: is given more than once");
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused() {
        let error = insert(&mut Map::new(), "top_p", f64::NAN.into()).unwrap_err();
        assert_eq!(error.to_string(), "top_p: must be finite");
    }
}
