//! JSON of strangers, read within bounds.
//!
//! A few bytes of text can become many times as much memory (`[0,0,0,...]`), so the values are counted while they are
//! read. Errors say where, never in a library's words.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::error::CaptionError;

/// Values in one body, containers counted; far above any real request.
const MAX_VALUES: usize = 65_536;

/// Reads a whole body as one JSON value of at most 65,536 values and 128 levels.
pub(crate) fn parse(body: &[u8]) -> Result<Value, CaptionError> {
    let budget = Cell::new(MAX_VALUES);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = Bounded(&budget).deserialize(&mut deserializer);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let reason = match budget.get() {
            0 => format!("more than {MAX_VALUES} JSON values"),
            _ => format!("not valid JSON, or nested too deeply, at line {line} column {column}"),
        };
        CaptionError::invalid("body", reason)
    })
}

/// What a value is, for error texts: numbers and booleans as they stand, the rest by kind.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Builds a [`Value`] and counts the budget down.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.set(self.0.get() - 1);
        if self.0.get() == 0 {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            map.insert(key, access.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a": [1, -2, 2.5, true, null, "x\n"], "b": {}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn names_the_place_of_a_mistake_and_nothing_else() {
        let text = parse(b"{\"inputs\": [\n1,}").unwrap_err().to_string();
        assert_eq!(text, "body: not valid JSON, or nested too deeply, at line 2 column 3");
        for bad in [&b""[..], b"{} {}", b"\xff", b"[1e999]", b"\"\\ud800\""] {
            assert!(parse(bad).unwrap_err().to_string().starts_with("body: not valid JSON"), "{bad:?}");
        }
    }

    #[test]
    fn refuses_depth_and_number_of_values() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).unwrap_err().to_string().contains("nested too deeply"));
        let wide = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert_eq!(parse(wide.as_bytes()).unwrap_err().to_string(), "body: more than 65536 JSON values");
        assert!(parse(format!("[{}0]", "0,".repeat(MAX_VALUES - 4)).as_bytes()).is_ok());
    }
}
