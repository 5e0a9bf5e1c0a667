//! The parsed form of an Open Inference Protocol request, over REST or gRPC: tensors with names, datatypes and shapes.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    error::CaptionError,
    server::protocol::{
        echo,
        open_inference::tensor::{self, Elements},
    },
};

/// Maximum number of inputs, outputs or parameters of one request.
pub(crate) const MAX_ENTRIES: usize = 32;

/// Maximum size of a request's id in bytes.
const MAX_ID_BYTES: usize = 1024;

/// A request whose tensor names are not interpreted yet.
#[derive(Debug, Default)]
pub(crate) struct InferRequest {
    /// The client's id, which is echoed.
    pub(crate) id: Option<String>,
    /// Request-level parameters.
    pub(crate) parameters: Map<String, Value>,
    /// The input tensors, whose names may repeat.
    pub(crate) inputs: Vec<InferInput>,
    /// The requested outputs in order; none stands for the default.
    pub(crate) outputs: Vec<RequestedOutput>,
}

/// One input tensor whose data has the declared shape and datatype.
#[derive(Debug)]
pub(crate) struct InferInput {
    /// Where it is, e.g. `inputs[0]`, for errors.
    pub(crate) field: String,
    /// Name of the tensor.
    pub(crate) name: String,
    /// Datatype, e.g. `BYTES`.
    pub(crate) datatype: String,
    /// One or two dimensions, each >= 1.
    pub(crate) shape: Vec<usize>,
    /// The elements, row-major, as many as the product of `shape`.
    pub(crate) data: Elements,
    /// Where the elements are, for errors.
    pub(crate) data_field: String,
}

/// One requested output.
#[derive(Debug)]
pub(crate) struct RequestedOutput {
    /// Name of the tensor.
    pub(crate) name: String,
    /// Whether it is sent as bytes after the JSON; `None` leaves that to the request's `binary_data_output`.
    pub(crate) is_binary: Option<bool>,
}

impl InferRequest {
    /// A body that is nothing but an image file: the binary tensor extension with a JSON part of length 0.
    pub(crate) fn from_raw_image(file: Bytes) -> Self {
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

/// The test that an element of this datatype must pass in JSON.
pub(crate) fn check_datatype(field: &str, datatype: &str) -> Result<fn(&Value) -> bool, CaptionError> {
    holds(datatype).ok_or_else(|| {
        CaptionError::invalid(format!("{field}.datatype"), format!("unknown datatype '{}'", echo(datatype)))
    })
}

/// The elements of a tensor that came as bytes.
pub(crate) fn decode(field: &str, datatype: &str, shape: &[usize], raw: Bytes) -> Result<Elements, CaptionError> {
    let elements = tensor::count(shape).and_then(|wanted| tensor::decode(datatype, wanted, raw));
    elements.map_err(|reason| CaptionError::invalid(field.to_owned(), reason))
}

/// Refuses the extension by which clients on the same machine pass tensors.
pub(crate) fn refuse_shared_memory<'a>(
    field: &str,
    mut parameters: impl Iterator<Item = &'a String>,
) -> Result<(), CaptionError> {
    match parameters.find(|name| name.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(name) => {
            Err(CaptionError::invalid(format!("{field}.parameters.{}", echo(name)), "shared memory is not supported"))
        }
    }
}

/// Checks the sizes of a tensor.
pub(crate) fn check_shape(field: &str, shape: Option<Vec<usize>>) -> Result<Vec<usize>, CaptionError> {
    shape.filter(|shape| (1..=2).contains(&shape.len()) && !shape.contains(&0)).ok_or_else(|| {
        CaptionError::invalid(format!("{field}.shape"), "must be an array of one or two positive integers")
    })
}

/// Checks the length of a request's id.
pub(crate) fn check_id(id: String) -> Result<String, String> {
    if id.len() <= MAX_ID_BYTES {
        return Ok(id);
    }
    Err(format!("must be at most {MAX_ID_BYTES} bytes, got {}", id.len()))
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
