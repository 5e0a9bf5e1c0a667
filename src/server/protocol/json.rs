//! JSON from untrusted clients: bounded, parsed, then deserialised with the path of each error.
//!
//! A few bytes of text can become many times as much memory (`[0,0,0,...]`), so values are counted before they are parsed.
//! Error texts come from this service, never from a library.

use std::fmt;

use memchr::memchr2;
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, Error, Expected, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

use crate::{error::CaptionError, server::protocol::echo};

/// Values in one body, containers counted; far above any real request.
const MAX_VALUES: usize = 65_536;

/// Fields of a struct that an error still lists.
const MAX_LISTED_FIELDS: usize = 10;

/// The largest integer that every JSON writer gets right when it writes it as 5.0.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Parses a whole text as one JSON value of at most 65,536 values and 128 levels. `field` is its place, for errors.
pub(crate) fn parse(field: &'static str, text: &[u8]) -> Result<Value, CaptionError> {
    if count_values(text) > MAX_VALUES {
        return Err(CaptionError::invalid(field, format!("more than {MAX_VALUES} JSON values")));
    }
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let reason = format!("not valid JSON, or nested too deeply, at line {line} column {column}");
        CaptionError::invalid(field, reason)
    })
}

/// The number of values in a text, containers included; an empty container counts twice.
fn count_values(mut text: &[u8]) -> usize {
    let mut count = 1;
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        match byte {
            b'[' | b'{' | b',' => count += 1,
            b'"' => text = after_string(text),
            _ => {}
        }
    }
    count
}

/// The text after a string whose opening quote has been read.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', text) {
        let is_end = text[at] == b'"';
        text = text.get(at + 1 + usize::from(!is_end)..).unwrap_or_default();
        if is_end {
            return text;
        }
    }
    &[]
}

/// Parses a whole text as an object.
pub(crate) fn parse_object(field: &'static str, text: &[u8]) -> Result<Map<String, Value>, CaptionError> {
    match parse(field, text)? {
        Value::Object(object) => Ok(object),
        other => Err(CaptionError::invalid(field, wrong_type("an object", &other))),
    }
}

/// Turns a value into the struct that describes it. An error names the field by its path, `parameters.num_beams`; that of
/// the value itself is `body`.
///
/// A whole float is accepted as an integer, since some clients have one kind of number, and a single value as a list.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, CaptionError> {
    serde_path_to_error::deserialize(Json(value)).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { echo(&path) };
        CaptionError::invalid(field, error.into_inner().0)
    })
}

/// Describes a value that has the wrong type.
pub(crate) fn wrong_type(expected: impl fmt::Display, value: &Value) -> String {
    format!("must be {expected}, got {}", describe(value))
}

/// What a value is, for error texts: numbers and booleans by value, the rest by kind.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A parsed value as a source of typed fields.
struct Json(Value);

impl Json {
    fn integer<'de, V: Visitor<'de>>(self, bits: u32, visitor: V) -> Result<V::Value, Mistake> {
        let is_whole = |float: &f64| float.fract() == 0.0 && (0.0..=MAX_EXACT_FLOAT).contains(float);
        let given = self.0.as_u64().or_else(|| self.0.as_f64().filter(is_whole).map(|float| float as u64));
        match given.filter(|integer| *integer <= u64::MAX >> (u64::BITS - bits)) {
            Some(integer) => visitor.visit_u64(integer),
            None => wrong(format!("an integer of 0 or more and at most {bits} bits"), &self.0),
        }
    }
}

impl<'de> Deserializer<'de> for Json {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::String(text) => visitor.visit_string(text),
            other => wrong(&visitor as &dyn Expected, &other),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Bool(flag) => visitor.visit_bool(flag),
            other => wrong("true or false", &other),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(u32::BITS, visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.integer(u64::BITS, visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0.as_f64() {
            Some(number) => visitor.visit_f64(number),
            None => wrong("a number", &self.0),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            other => wrong("a string", &other),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let values = match self.0 {
            Value::Array(values) => values,
            one => vec![one],
        };
        visitor.visit_seq(SeqDeserializer::new(values.into_iter().map(Json)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Object(object) => {
                visitor.visit_map(MapDeserializer::new(object.into_iter().map(|(key, value)| (key, Json(value)))))
            }
            other => wrong("an object", &other),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 f32 char str bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct enum identifier
    }
}

impl IntoDeserializer<'_, Mistake> for Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// What is wrong with a field, as an error text of this service.
#[derive(Debug)]
struct Mistake(String);

fn wrong<T>(expected: impl fmt::Display, value: &Value) -> Result<T, Mistake> {
    Err(Mistake(wrong_type(expected, value)))
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

impl Error for Mistake {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(reason.to_string())
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        if expected.len() > MAX_LISTED_FIELDS {
            return Self("unknown field".to_owned());
        }
        Self(format!("unknown field, must be one of {}", expected.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a": [1, -2, 2.5, true, null, "x\n"], "b": {}}"#;
        assert_eq!(parse("body", text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn names_the_place_of_a_mistake_and_nothing_else() {
        let text = parse("body", b"{\"inputs\": [\n1,}").unwrap_err().to_string();
        assert_eq!(text, "body: not valid JSON, or nested too deeply, at line 2 column 3");
        for bad in [&b""[..], b"{} {}", b"\xff", b"[1e999]", b"\"\\ud800\""] {
            assert!(parse("body", bad).unwrap_err().to_string().starts_with("body: not valid JSON"), "{bad:?}");
        }
    }

    #[test]
    fn refuses_depth_and_number_of_values() {
        let deep = "[".repeat(60_000);
        assert!(parse("body", deep.as_bytes()).unwrap_err().to_string().contains("nested too deeply"));
        let wide = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert_eq!(parse("body", wide.as_bytes()).unwrap_err().to_string(), "body: more than 65536 JSON values");
        assert!(parse("body", format!("[{}0]", "0,".repeat(MAX_VALUES - 4)).as_bytes()).is_ok());
    }

    #[test]
    fn counts_values_but_not_the_commas_of_strings() {
        for (text, count) in [
            ("1", 1),
            (r#"[1, 2, {"a": 3}]"#, 5),
            (r#"{"a": ",[{", "b": "\"," }"#, 3),
            (r#"["\\", 1]"#, 3),
            ("\"unterminated,,,", 1),
        ] {
            assert_eq!(count_values(text.as_bytes()), count, "{text}");
        }
    }
}
