//! The form of an Open Inference Protocol request, however it came: tensors with names, types and shapes, no meaning yet.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    error::CaptionError,
    server::protocol::{
        echo,
        open_inference::tensor::{self, Elements},
    },
};

/// Inputs, outputs or parameters in one request.
pub(crate) const MAX_ENTRIES: usize = 32;

/// Bytes of a request's id.
const MAX_ID_BYTES: usize = 1024;

/// A request as it came.
#[derive(Debug, Default)]
pub(crate) struct InferRequest {
    /// To be echoed.
    pub(crate) id: Option<String>,
    /// Request-level parameters.
    pub(crate) parameters: Map<String, Value>,
    /// Names may repeat; the reader of the meaning refuses that.
    pub(crate) inputs: Vec<InferInput>,
    /// The outputs wanted, in order; empty is the default.
    pub(crate) outputs: Vec<RequestedOutput>,
}

/// One input tensor whose data has the declared shape and datatype.
#[derive(Debug)]
pub(crate) struct InferInput {
    /// e.g. `inputs[0]`, for errors.
    pub(crate) field: String,
    /// The tensor's name.
    pub(crate) name: String,
    /// e.g. `BYTES`.
    pub(crate) datatype: String,
    /// One or two dimensions, each >= 1.
    pub(crate) shape: Vec<usize>,
    /// Row-major, as many as the product of `shape`.
    pub(crate) data: Elements,
    /// Where they were, for errors.
    pub(crate) data_field: String,
}

/// One output asked for.
#[derive(Debug)]
pub(crate) struct RequestedOutput {
    /// Of the tensor.
    pub(crate) name: String,
    /// Whether as bytes behind the JSON; `None` is as the request says for all.
    pub(crate) binary: Option<bool>,
}

impl InferRequest {
    /// A body that is nothing but a picture: the binary tensor extension with a JSON part of length 0.
    pub(crate) fn of_picture(file: Bytes) -> Self {
        let input = InferInput {
            field: "inputs[0]".to_owned(),
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            data: Elements::Bytes(vec![file]),
            data_field: "body".to_owned(),
        };
        let parameters = Map::from_iter([("binary_data_output".to_owned(), true.into())]);
        Self { inputs: vec![input], parameters, ..Self::default() }
    }
}

/// The test that an element in JSON must pass.
pub(crate) fn check_datatype(field: &str, datatype: &str) -> Result<fn(&Value) -> bool, CaptionError> {
    holds(datatype)
        .ok_or_else(|| CaptionError::invalid(format!("{field}.datatype"), format!("'{}' is unknown", echo(datatype))))
}

/// The elements of a tensor that came as bytes.
pub(crate) fn decode(field: &str, datatype: &str, shape: &[usize], raw: Bytes) -> Result<Elements, CaptionError> {
    let elements = tensor::count(shape).and_then(|wanted| tensor::decode(datatype, wanted, raw));
    elements.map_err(|reason| CaptionError::invalid(field.to_owned(), reason))
}

/// Some clients offer it; this server shares memory with nobody.
pub(crate) fn refuse_shared_memory<'a>(
    field: &str,
    mut parameters: impl Iterator<Item = &'a String>,
) -> Result<(), CaptionError> {
    match parameters.find(|name| name.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(name) => {
            Err(CaptionError::invalid(format!("{field}.parameters.{}", echo(name)), "shared memory is not offered"))
        }
    }
}

/// Sizes on the wire, of which each must be positive.
pub(crate) fn check_shape(field: &str, shape: Option<Vec<usize>>) -> Result<Vec<usize>, CaptionError> {
    shape.filter(|shape| (1..=2).contains(&shape.len()) && !shape.contains(&0)).ok_or_else(|| {
        CaptionError::invalid(format!("{field}.shape"), "must be an array of one or two positive integers")
    })
}

/// An id of bearable length.
pub(crate) fn check_id(id: String) -> Result<String, CaptionError> {
    if id.len() <= MAX_ID_BYTES {
        return Ok(id);
    }
    Err(CaptionError::invalid("id", format!("must be at most {MAX_ID_BYTES} bytes, got {}", id.len())))
}

/// The test that an element of this datatype passes; `None` for an unknown datatype.
fn holds(datatype: &str) -> Option<fn(&Value) -> bool> {
    match datatype {
        "BYTES" => Some(Value::is_string),
        "BOOL" => Some(Value::is_boolean),
        "INT8" | "INT16" | "INT32" | "INT64" | "UINT8" | "UINT16" | "UINT32" | "UINT64" => {
            Some(|value| value.is_u64() || value.is_i64() || value.as_f64().is_some_and(|float| float.fract() == 0.0))
        }
        "FP16" | "BF16" | "FP32" | "FP64" => Some(Value::is_number),
        _ => None,
    }
}
