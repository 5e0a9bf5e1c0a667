//! A request as the bytes of each transport. Protobuf is encoded here, since the service's messages are private.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::request::{Data, MAX_ELEMENTS, Request, Scalar, Tensor};

/// Elements of a tensor in every form.
struct Elements {
    datatype: &'static str,
    json: Vec<Value>,
    raw: Vec<u8>,
    /// `InferTensorContents`.
    contents: Vec<u8>,
}

/// JSON.
pub fn json(request: &Request) -> Vec<u8> {
    let input = |tensor: &Tensor| {
        let elements = elements(tensor);
        let mut input = head(tensor, &elements);
        input["data"] = Value::Array(elements.json);
        input
    };
    body(request, request.inputs.iter().map(input).collect())
}

/// JSON with its inputs behind it, and the length of the JSON.
pub fn binary(request: &Request) -> (usize, Vec<u8>) {
    let mut blobs = vec![];
    let mut inputs = vec![];
    for tensor in &request.inputs {
        let elements = elements(tensor);
        let mut input = head(tensor, &elements);
        input["parameters"] = json!({"binary_data_size": elements.raw.len()});
        blobs.extend(elements.raw);
        inputs.push(input);
    }
    let body = body(request, inputs);
    (body.len(), [body, blobs].concat())
}

/// `ModelInferRequest`.
pub fn message(request: &Request) -> Vec<u8> {
    let mut message = vec![];
    put_bytes(&mut message, 3, request.id.0.as_bytes());
    for (name, value) in &request.parameters {
        let mut entry = vec![];
        put_bytes(&mut entry, 1, name.0.as_bytes());
        put_bytes(&mut entry, 2, &parameter(value));
        put_bytes(&mut message, 4, &entry);
    }
    let mut raw = vec![];
    for tensor in &request.inputs {
        let elements = elements(tensor);
        let mut input = vec![];
        put_bytes(&mut input, 1, tensor.name.0.as_bytes());
        put_bytes(&mut input, 2, elements.datatype.as_bytes());
        tensor.shape.for_count(elements.json.len()).iter().for_each(|size| put_varint(&mut input, 3, *size as u64));
        if request.is_raw {
            put_bytes(&mut raw, 7, &elements.raw);
        } else {
            put_bytes(&mut input, 5, &elements.contents);
        }
        put_bytes(&mut message, 5, &input);
    }
    for name in &request.outputs {
        let mut output = vec![];
        put_bytes(&mut output, 1, name.0.as_bytes());
        put_bytes(&mut message, 6, &output);
    }
    [message, raw].concat()
}

fn body(request: &Request, inputs: Vec<Value>) -> Vec<u8> {
    let value = |value: &Scalar| match value {
        Scalar::Flag(flag) => json!(flag),
        Scalar::Integer(integer) => json!(integer),
        Scalar::Unsigned(integer) => json!(integer),
        Scalar::Number(number) => json!(finite(*number)),
        Scalar::Text(word) => json!(word.0),
    };
    let parameters = request.parameters.iter().map(|(name, scalar)| (name.0.clone(), value(scalar)));
    let outputs = request.outputs.iter().map(|name| json!({"name": name.0}));
    let body = json!({
        "id": request.id.0,
        "parameters": parameters.collect::<Map<_, _>>(),
        "inputs": inputs,
        "outputs": outputs.collect::<Vec<_>>(),
    });
    body.to_string().into_bytes()
}

fn head(tensor: &Tensor, elements: &Elements) -> Value {
    let shape = tensor.shape.for_count(elements.json.len());
    json!({"name": tensor.name.0, "datatype": elements.datatype, "shape": shape})
}

/// `InferParameter`.
fn parameter(value: &Scalar) -> Vec<u8> {
    let mut message = vec![];
    match value {
        Scalar::Flag(flag) => put_varint(&mut message, 1, u64::from(*flag)),
        Scalar::Integer(integer) => put_varint(&mut message, 2, integer.cast_unsigned()),
        Scalar::Unsigned(integer) => put_varint(&mut message, 5, *integer),
        Scalar::Number(number) => put_fixed(&mut message, 4, &finite(*number).to_le_bytes()),
        Scalar::Text(word) => put_bytes(&mut message, 3, word.0.as_bytes()),
    }
    message
}

fn elements(tensor: &Tensor) -> Elements {
    // Files are base64 in JSON.
    let is_file = tensor.name.0 == "image";
    match &tensor.data {
        Data::Bytes(words) => {
            let mut elements = Elements { datatype: "BYTES", json: vec![], raw: vec![], contents: vec![] };
            for word in words.iter().take(MAX_ELEMENTS) {
                let text = if is_file { STANDARD.encode(&word.0) } else { word.0.clone() };
                elements.json.push(text.into());
                elements.raw.extend((word.0.len() as u32).to_le_bytes());
                elements.raw.extend(word.0.as_bytes());
                put_bytes(&mut elements.contents, 8, word.0.as_bytes());
            }
            elements
        }
        Data::Bool(flags) => {
            numbers("BOOL", flags, |flag| [u8::from(flag)], |out, flag| put_varint(out, 1, flag.into()))
        }
        Data::Int8(n) => numbers("INT8", n, i8::to_le_bytes, |out, n| put_varint(out, 2, i64::from(n).cast_unsigned())),
        Data::Int32(n) => {
            numbers("INT32", n, i32::to_le_bytes, |out, n| put_varint(out, 2, i64::from(n).cast_unsigned()))
        }
        Data::Int64(n) => numbers("INT64", n, i64::to_le_bytes, |out, n| put_varint(out, 3, n.cast_unsigned())),
        Data::Uint16(n) => numbers("UINT16", n, u16::to_le_bytes, |out, n| put_varint(out, 4, n.into())),
        Data::Uint64(n) => numbers("UINT64", n, u64::to_le_bytes, |out, n| put_varint(out, 5, n)),
        Data::Fp32(n) => {
            let n: Vec<f32> = n.iter().map(|n| if n.is_finite() { *n } else { 0.5 }).collect();
            numbers("FP32", &n, f32::to_le_bytes, |out, n| put_fixed(out, 6, &n.to_le_bytes()))
        }
        Data::Fp64(n) => {
            let n: Vec<f64> = n.iter().copied().map(finite).collect();
            numbers("FP64", &n, f64::to_le_bytes, |out, n| put_fixed(out, 7, &n.to_le_bytes()))
        }
    }
}

fn numbers<T: Copy + Into<Value>, const WIDTH: usize>(
    datatype: &'static str,
    values: &[T],
    raw: fn(T) -> [u8; WIDTH],
    put: fn(&mut Vec<u8>, T),
) -> Elements {
    let mut elements = Elements { datatype, json: vec![], raw: vec![], contents: vec![] };
    for value in values.iter().take(MAX_ELEMENTS) {
        elements.json.push((*value).into());
        elements.raw.extend(raw(*value));
        put(&mut elements.contents, *value);
    }
    elements
}

/// JSON has no other numbers.
fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { 0.5 }
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_varint(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

/// Four or eight bytes.
fn put_fixed(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | if bytes.len() == 4 { 5 } else { 1 });
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
