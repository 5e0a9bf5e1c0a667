//! The form of an Open Inference Protocol request, without any meaning: tensors with names, types and shapes.
//!
//! Reads a JSON value by hand so that every mistake names its field. Unknown keys are tolerated, as other servers do.

use serde_json::{Map, Value};

use crate::{
    error::CaptionError,
    server::{convert::echo, json::describe},
};

/// Inputs, outputs or parameters in one request.
const MAX_ENTRIES: usize = 32;

/// Bytes of a request's id.
const MAX_ID_BYTES: usize = 1024;

/// A request as it came.
#[derive(Debug)]
pub(crate) struct InferRequest {
    /// To be echoed.
    pub(crate) id: Option<String>,
    /// Request-level parameters.
    pub(crate) parameters: Map<String, Value>,
    /// Names may repeat; the reader of the meaning refuses that.
    pub(crate) inputs: Vec<InferInput>,
    /// Names of the outputs wanted, in order; empty is the default.
    pub(crate) outputs: Vec<String>,
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
    pub(crate) data: Vec<Value>,
}

impl InferRequest {
    /// Checks the form of `body`.
    pub(crate) fn parse(body: Value) -> Result<Self, CaptionError> {
        let Value::Object(mut body) = body else {
            return Err(wrong("body", "an object", &body));
        };
        let id = body.remove("id").map(id).transpose()?;
        let parameters = match body.remove("parameters") {
            None => Map::new(),
            Some(Value::Object(parameters)) if parameters.len() <= MAX_ENTRIES => parameters,
            Some(other) => {
                return Err(wrong("parameters", &format!("an object of at most {MAX_ENTRIES} keys"), &other));
            }
        };
        let inputs = entries(body.remove("inputs"), "inputs")?.into_iter().enumerate();
        let inputs = inputs.map(|(index, input)| InferInput::parse(format!("inputs[{index}]"), input));
        let outputs = match body.remove("outputs") {
            None => vec![],
            outputs => entries(outputs, "outputs")?,
        };
        let outputs = outputs.into_iter().enumerate().map(|(index, output)| output_name(index, output));
        Ok(Self {
            id,
            parameters,
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: outputs.collect::<Result<_, _>>()?,
        })
    }
}

impl InferInput {
    fn parse(field: String, input: Value) -> Result<Self, CaptionError> {
        let Value::Object(mut input) = input else {
            return Err(wrong(&field, "an object", &input));
        };
        let name = string(&field, "name", input.remove("name"))?;
        let datatype = string(&field, "datatype", input.remove("datatype"))?;
        let shape = shape(&field, input.remove("shape"))?;
        let data = input.remove("data");
        let data = data.ok_or_else(|| CaptionError::invalid(format!("{field}.data"), "is required"))?;
        let data = flatten(data, &shape).map_err(|reason| CaptionError::invalid(format!("{field}.data"), reason))?;
        let holds = holds(&datatype).ok_or_else(|| {
            CaptionError::invalid(format!("{field}.datatype"), format!("'{}' is unknown", echo(&datatype)))
        })?;
        if let Some(odd) = data.iter().find(|value| !holds(value)) {
            return Err(wrong(&format!("{field}.data"), &format!("elements of datatype {datatype}"), odd));
        }
        Ok(Self { field, name, datatype, shape, data })
    }
}

fn wrong(field: &str, expected: &str, value: &Value) -> CaptionError {
    CaptionError::invalid(field.to_owned(), format!("must be {expected}, got {}", describe(value)))
}

fn id(value: Value) -> Result<String, CaptionError> {
    match value {
        Value::String(id) if id.len() <= MAX_ID_BYTES => Ok(id),
        other => Err(wrong("id", &format!("a string of at most {MAX_ID_BYTES} bytes"), &other)),
    }
}

fn string(field: &str, key: &str, value: Option<Value>) -> Result<String, CaptionError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(&format!("{field}.{key}"), "a string", &other)),
        None => Err(CaptionError::invalid(format!("{field}.{key}"), "is required")),
    }
}

fn entries(value: Option<Value>, field: &'static str) -> Result<Vec<Value>, CaptionError> {
    match value {
        Some(Value::Array(list)) if list.len() <= MAX_ENTRIES => Ok(list),
        Some(other) => Err(wrong(field, &format!("an array of at most {MAX_ENTRIES} objects"), &other)),
        None => Err(CaptionError::invalid(field, "is required")),
    }
}

fn output_name(index: usize, output: Value) -> Result<String, CaptionError> {
    let field = format!("outputs[{index}]");
    match output {
        Value::Object(mut output) => string(&field, "name", output.remove("name")),
        other => Err(wrong(&field, "an object", &other)),
    }
}

fn shape(field: &str, value: Option<Value>) -> Result<Vec<usize>, CaptionError> {
    let value = value.ok_or_else(|| CaptionError::invalid(format!("{field}.shape"), "is required"))?;
    let dimension = |value: &Value| value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let shape: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(dimension).collect());
    shape.filter(|shape| (1..=2).contains(&shape.len())).ok_or_else(|| {
        CaptionError::invalid(format!("{field}.shape"), "must be an array of one or two positive integers")
    })
}

/// Data may be flat or nested as the shape says.
fn flatten(data: Value, shape: &[usize]) -> Result<Vec<Value>, String> {
    let Value::Array(list) = data else {
        return Err(format!("must be an array, got {}", describe(&data)));
    };
    let is_nested = shape.len() == 2 && list.first().is_some_and(Value::is_array);
    let flat = if is_nested {
        let rows = list.into_iter().map(|row| match row {
            Value::Array(row) if row.len() == shape[1] => Ok(row),
            _ => Err(format!("each row must be an array of {} elements, as shape says", shape[1])),
        });
        rows.collect::<Result<Vec<_>, _>>()?.concat()
    } else {
        list
    };
    let wanted = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension));
    if wanted != Some(flat.len()) {
        return Err(format!("has {} elements, which is not the product of shape {shape:?}", flat.len()));
    }
    Ok(flat)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(shape: &Value, data: &Value) -> Result<Vec<Value>, String> {
        let input = json!({"name": "n", "datatype": "BYTES", "shape": shape, "data": data, "optional": true});
        InferInput::parse("inputs[3]".to_owned(), input).map(|input| input.data).map_err(|error| error.to_string())
    }

    #[test]
    fn data_is_flat_or_nested_as_its_shape() {
        let two = Ok(vec![json!("a"), json!("b")]);
        for (shape, given) in [
            (json!([2]), json!(["a", "b"])),
            (json!([2, 1]), json!(["a", "b"])),
            (json!([2, 1]), json!([["a"], ["b"]])),
            (json!([1, 2]), json!([["a", "b"]])),
        ] {
            assert_eq!(data(&shape, &given), two);
        }
        for (shape, given) in [
            (json!([2]), json!(["a"])),
            (json!([2]), json!([["a"], ["b"]])),
            (json!([2, 1]), json!([["a", "b"]])),
            (json!([2, 1]), json!([["a"], "b"])),
            (json!([1, 1]), json!([[["a"]]])),
            (json!([u64::MAX, u64::MAX]), json!(["a"])),
            (json!([1]), json!("a")),
        ] {
            assert!(data(&shape, &given).unwrap_err().starts_with("inputs[3].data: "), "{given}");
        }
    }

    #[test]
    fn a_shape_is_one_or_two_positive_integers() {
        for shape in
            [json!([]), json!([-1]), json!([0]), json!([1.5]), json!(["1"]), json!(1), json!([1, 1, 1]), json!(null)]
        {
            let text = data(&shape, &json!(["a"])).unwrap_err();
            assert_eq!(text, "inputs[3].shape: must be an array of one or two positive integers", "{shape}");
        }
    }

    #[test]
    fn every_mistake_names_its_field() {
        let input = |key: &str, value: Value| {
            let mut input = json!({"name": "n", "datatype": "BYTES", "shape": [1], "data": ["x"]});
            input[key] = value;
            json!({ "inputs": [input] })
        };
        for (body, start) in [
            (json!([]), "body: must be an object, got an array"),
            (json!({}), "inputs: is required"),
            (json!({"inputs": {}}), "inputs: must be an array"),
            (json!({"inputs": vec![1; 33]}), "inputs: must be an array of at most 32"),
            (json!({"inputs": [7]}), "inputs[0]: must be an object, got 7"),
            (json!({"inputs": [{}]}), "inputs[0].name: is required"),
            (json!({"inputs": [], "id": 7}), "id: must be a string"),
            (json!({"inputs": [], "parameters": []}), "parameters: must be an object"),
            (json!({"inputs": [], "outputs": [{}]}), "outputs[0].name: is required"),
            (input("name", json!(1)), "inputs[0].name: must be a string, got 1"),
            (input("datatype", json!(null)), "inputs[0].datatype: must be a string, got null"),
            (input("datatype", json!("TEXT")), "inputs[0].datatype: 'TEXT' is unknown"),
            (input("data", json!([5])), "inputs[0].data: must be elements of datatype BYTES, got 5"),
        ] {
            let text = InferRequest::parse(body).unwrap_err().to_string();
            assert!(text.starts_with(start), "{text} / {start}");
        }
    }
}
