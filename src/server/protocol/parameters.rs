//! Generation parameters from JSON: one table of names and types for every JSON surface.
//!
//! Only types are checked; bounds are the business of `GenerationConfig`, which knows the model's limits.

use std::{borrow::Cow, fmt::Display};

use serde_json::Value;

use crate::{
    error::CaptionError,
    server::protocol::{echo, json::describe},
};
use generation::{EarlyStopping, GenerationParameters};

/// The largest integer that every JSON writer gets right when it writes it as 5.0.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Sets the parameter `name`; `None` if there is none of this name.
pub(crate) fn set(
    parameters: &mut GenerationParameters,
    name: &str,
    value: &Value,
) -> Option<Result<(), CaptionError>> {
    let p = parameters;
    Some(match name {
        "max_new_tokens" => assign(&mut p.max_new_tokens, "max_new_tokens", integer(value)),
        "min_new_tokens" => assign(&mut p.min_new_tokens, "min_new_tokens", integer(value)),
        "min_length" => assign(&mut p.min_length, "min_length", integer(value)),
        "num_beams" => assign(&mut p.num_beams, "num_beams", integer(value)),
        "num_return_sequences" => assign(&mut p.num_return_sequences, "num_return_sequences", integer(value)),
        "length_penalty" => assign(&mut p.length_penalty, "length_penalty", number(value)),
        "early_stopping" => assign(&mut p.early_stopping, "early_stopping", early_stopping(value)),
        "repetition_penalty" => assign(&mut p.repetition_penalty, "repetition_penalty", number(value)),
        "no_repeat_ngram_size" => assign(&mut p.no_repeat_ngram_size, "no_repeat_ngram_size", integer(value)),
        "bad_words" => assign(&mut p.bad_words, "bad_words", words(value)),
        "do_sample" => assign(&mut p.do_sample, "do_sample", boolean(value)),
        "temperature" => assign(&mut p.temperature, "temperature", number(value)),
        "top_k" => assign(&mut p.top_k, "top_k", integer(value)),
        "top_p" => assign(&mut p.top_p, "top_p", number(value)),
        "seed" => assign(&mut p.seed, "seed", integer(value)),
        _ => return None,
    })
}

/// Whether [`set`] knows `name`.
pub(crate) fn is_known(name: &str) -> bool {
    set(&mut GenerationParameters::default(), name, &Value::Null).is_some()
}

fn assign<T>(slot: &mut Option<T>, name: &'static str, value: Result<T, String>) -> Result<(), CaptionError> {
    let value = value.map_err(|reason| CaptionError::invalid(name, reason))?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(CaptionError::invalid(name, "is given more than once")),
    }
}

fn integer<T: TryFrom<u64>>(value: &Value) -> Result<T, String> {
    // Some clients know only one kind of number and write 5 as 5.0.
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..=MAX_EXACT_FLOAT).contains(float);
    let given = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|float| float as u64));
    let bits = 8 * size_of::<T>();
    given
        .and_then(|integer| integer.try_into().ok())
        .ok_or_else(|| mistake(format!("an integer of 0 or more and at most {bits} bits"), value))
}

fn number(value: &Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| mistake("a number", value))
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| mistake("true or false", value))
}

fn early_stopping(value: &Value) -> Result<EarlyStopping, String> {
    match value {
        Value::Bool(flag) => Ok((*flag).into()),
        Value::String(word) => echo(word).parse(),
        _ => Err(mistake("true, false or \"never\"", value)),
    }
}

/// A string or a list of strings.
fn words(value: &Value) -> Result<Vec<String>, String> {
    let list = match value {
        Value::Array(list) => Cow::Borrowed(list),
        one => Cow::Owned(vec![one.clone()]),
    };
    let word = |word: &Value| word.as_str().map(str::to_owned).ok_or_else(|| mistake("a list of strings", word));
    list.iter().map(word).collect()
}

fn mistake(expected: impl Display, value: &Value) -> String {
    format!("must be {expected}, got {}", describe(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(name: &str, value: &Value) -> Result<GenerationParameters, String> {
        let mut parameters = GenerationParameters::default();
        set(&mut parameters, name, value).unwrap().map_err(|error| error.to_string())?;
        Ok(parameters)
    }

    #[test]
    fn every_parameter_of_the_domain_has_its_name_here() {
        let all = serde_json::to_value(GenerationParameters::default()).unwrap();
        let names: Vec<&String> = all.as_object().unwrap().keys().filter(|name| *name != "max_length").collect();
        assert_eq!(names.len(), 15);
        for name in names {
            assert!(is_known(name), "{name}");
        }
        assert!(!is_known("max_length") && !is_known("num_beam"));
    }

    #[test]
    fn a_whole_float_passes_for_an_integer_and_nothing_else_does() {
        assert_eq!(one("num_beams", &json!(5.0)).unwrap().num_beams, Some(5));
        assert_eq!(one("seed", &json!(u64::MAX)).unwrap().seed, Some(u64::MAX));
        for bad in [json!(5.5), json!("5"), json!(-1), json!(true), json!(null), json!([5]), json!(4_294_967_296_u64)] {
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
        for (name, bad) in [
            ("length_penalty", json!("1")),
            ("do_sample", json!(1)),
            ("early_stopping", json!("x")),
            ("bad_words", json!([1])),
        ] {
            assert!(one(name, &bad).unwrap_err().starts_with(&format!("{name}: must be ")), "{name}");
        }
    }

    #[test]
    fn twice_is_a_mistake() {
        let mut parameters = one("top_k", &json!(1)).unwrap();
        let error = set(&mut parameters, "top_k", &json!(2)).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "top_k: is given more than once");
    }
}
