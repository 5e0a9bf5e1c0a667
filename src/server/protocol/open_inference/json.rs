//! Open Inference Protocol requests in JSON, with or without binary tensors after them.
//!
//! Unlike the other bodies they are read value by value: what `data` may be depends on the datatype, the shape and the
//! parameters beside it. Unknown keys are tolerated, as other servers do.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    error::CaptionError,
    server::protocol::{
        json::wrong_type,
        open_inference::{
            request::{
                InferInput, InferRequest, MAX_ENTRIES, RequestedOutput, check_datatype, check_id, check_shape, decode,
                refuse_shared_memory,
            },
            tensor::Elements,
        },
    },
};

impl InferRequest {
    /// Parses `body`, whose binary tensors are in `binary`, in the order of the inputs.
    pub(crate) fn parse(body: Value, mut binary: Bytes) -> Result<Self, CaptionError> {
        let Value::Object(mut body) = body else {
            return Err(wrong("body", "an object", &body));
        };
        let id = take(&mut body, "id").map(id).transpose()?;
        let parameters = parameters("parameters", take(&mut body, "parameters"))?;
        let inputs = entries(take(&mut body, "inputs"), "inputs")?.into_iter().enumerate();
        let inputs = inputs.map(|(index, input)| InferInput::parse(format!("inputs[{index}]"), input, &mut binary));
        let inputs = inputs.collect::<Result<_, _>>()?;
        if !binary.is_empty() {
            let reason = format!("{} bytes are left after the binary data of the inputs", binary.len());
            return Err(CaptionError::invalid("body", reason));
        }
        let outputs = match take(&mut body, "outputs") {
            None => vec![],
            outputs => entries(outputs, "outputs")?,
        };
        let outputs = outputs.into_iter().enumerate();
        let outputs = outputs.map(|(index, output)| RequestedOutput::parse(&format!("outputs[{index}]"), output));
        Ok(Self { id, parameters, inputs, outputs: outputs.collect::<Result<_, _>>()? })
    }
}

impl InferInput {
    fn parse(field: String, input: Value, binary: &mut Bytes) -> Result<Self, CaptionError> {
        let Value::Object(mut input) = input else {
            return Err(wrong(&field, "an object", &input));
        };
        let name = string(&field, "name", take(&mut input, "name"))?;
        let datatype = string(&field, "datatype", take(&mut input, "datatype"))?;
        let holds = check_datatype(&field, &datatype)?;
        let shape = shape(&field, take(&mut input, "shape"))?;
        let parameters = parameters(&format!("{field}.parameters"), take(&mut input, "parameters"))?;
        refuse_shared_memory(&field, parameters.keys())?;
        let data_field = format!("{field}.data");
        let data = match (take(&mut input, "data"), parameters.get("binary_data_size")) {
            (Some(data), None) => {
                let data = flatten(data, &shape).map_err(|reason| CaptionError::invalid(data_field.clone(), reason))?;
                if let Some(odd) = data.iter().find(|value| !holds(value)) {
                    return Err(wrong(&data_field, &format!("elements of datatype {datatype}"), odd));
                }
                Elements::Values(data)
            }
            (None, Some(size)) => {
                let field = format!("{field}.parameters.binary_data_size");
                let raw = split_off(binary, size).map_err(|reason| CaptionError::invalid(field, reason))?;
                decode(&data_field, &datatype, &shape, raw)?
            }
            (Some(_), Some(_)) => {
                return Err(CaptionError::invalid(data_field, "must not be given together with binary_data_size"));
            }
            (None, None) => {
                return Err(CaptionError::invalid(data_field, "is required, or parameters.binary_data_size"));
            }
        };
        Ok(Self { field, name, datatype, shape, data, data_field })
    }
}

impl RequestedOutput {
    fn parse(field: &str, output: Value) -> Result<Self, CaptionError> {
        let Value::Object(mut output) = output else {
            return Err(wrong(field, "an object", &output));
        };
        let name = string(field, "name", take(&mut output, "name"))?;
        let parameters = parameters(&format!("{field}.parameters"), take(&mut output, "parameters"))?;
        refuse_shared_memory(field, parameters.keys())?;
        let is_binary = match parameters.get("binary_data") {
            None => None,
            Some(Value::Bool(flag)) => Some(*flag),
            Some(other) => return Err(wrong(&format!("{field}.parameters.binary_data"), "true or false", other)),
        };
        Ok(Self { name, is_binary })
    }
}

/// Takes a member of an object. `null` is the same as no value.
fn take(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    object.remove(key).filter(|value| !value.is_null())
}

fn wrong(field: &str, expected: &str, value: &Value) -> CaptionError {
    CaptionError::invalid(field.to_owned(), wrong_type(expected, value))
}

fn id(value: Value) -> Result<String, CaptionError> {
    match value {
        Value::String(id) => check_id(id).map_err(|reason| CaptionError::invalid("id", reason)),
        other => Err(wrong("id", "a string", &other)),
    }
}

fn string(field: &str, key: &str, value: Option<Value>) -> Result<String, CaptionError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(&format!("{field}.{key}"), "a string", &other)),
        None => Err(CaptionError::invalid(format!("{field}.{key}"), "is required")),
    }
}

fn parameters(field: &str, value: Option<Value>) -> Result<Map<String, Value>, CaptionError> {
    match value {
        None => Ok(Map::new()),
        Some(Value::Object(parameters)) if parameters.len() <= MAX_ENTRIES => {
            Ok(parameters.into_iter().filter(|(_, value)| !value.is_null()).collect())
        }
        Some(other) => Err(wrong(field, &format!("an object of at most {MAX_ENTRIES} keys"), &other)),
    }
}

fn entries(value: Option<Value>, field: &'static str) -> Result<Vec<Value>, CaptionError> {
    match value {
        Some(Value::Array(list)) if list.len() <= MAX_ENTRIES => Ok(list),
        Some(Value::Array(list)) => {
            Err(CaptionError::invalid(field, format!("must be at most {MAX_ENTRIES} tensors, got {}", list.len())))
        }
        Some(other) => Err(wrong(field, "an array of objects", &other)),
        None => Err(CaptionError::invalid(field, "is required")),
    }
}

fn shape(field: &str, value: Option<Value>) -> Result<Vec<usize>, CaptionError> {
    let value = value.ok_or_else(|| CaptionError::invalid(format!("{field}.shape"), "is required"))?;
    let dimension = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    check_shape(field, value.as_array().and_then(|list| list.iter().map(dimension).collect()))
}

/// Takes the next `size` bytes.
fn split_off(binary: &mut Bytes, size: &Value) -> Result<Bytes, String> {
    let given = size.as_u64().and_then(|size| usize::try_from(size).ok());
    let size = given.ok_or_else(|| wrong_type("a number of bytes", size))?;
    if size > binary.len() {
        return Err(format!("announces {size} bytes, {} are left in the body", binary.len()));
    }
    Ok(binary.split_to(size))
}

/// Flattens `data`, which may be nested according to the shape.
fn flatten(data: Value, shape: &[usize]) -> Result<Vec<Value>, String> {
    let Value::Array(list) = data else {
        return Err(wrong_type("an array", &data));
    };
    let is_nested = shape.len() == 2 && list.first().is_some_and(Value::is_array);
    let flat = if is_nested {
        let rows = list.into_iter().map(|row| match row {
            Value::Array(row) if row.len() == shape[1] => Ok(row),
            _ => Err(format!("each row must be an array of {} elements, as shape says", shape[1])),
        });
        rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
    } else {
        list
    };
    let wanted = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension));
    if wanted != Some(flat.len()) {
        return Err(format!("has {} elements, which is not the product of shape {shape:?}", flat.len()));
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(shape: &Value, data: &Value) -> Result<Vec<Value>, String> {
        let input = json!({"name": "n", "datatype": "BYTES", "shape": shape, "data": data, "optional": true});
        let parsed = InferInput::parse("inputs[3]".to_owned(), input, &mut Bytes::new());
        match parsed.map_err(|error| error.to_string())?.data {
            Elements::Values(values) => Ok(values),
            other @ Elements::Bytes(_) => Err(format!("{other:?}")),
        }
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
        for shape in [json!([]), json!([-1]), json!([0]), json!([1.5]), json!(["1"]), json!(1), json!([1, 1, 1])] {
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
            (json!({"inputs": {}}), "inputs: must be an array of objects, got"),
            (json!({"inputs": vec![1; 33]}), "inputs: must be at most 32 tensors, got 33"),
            (json!({"inputs": [7]}), "inputs[0]: must be an object, got 7"),
            (json!({"inputs": [{}]}), "inputs[0].name: is required"),
            (json!({"inputs": [], "id": 7}), "id: must be a string"),
            (json!({"inputs": [], "parameters": []}), "parameters: must be an object"),
            (json!({"inputs": [], "outputs": [{}]}), "outputs[0].name: is required"),
            (input("name", json!(1)), "inputs[0].name: must be a string, got 1"),
            (input("datatype", json!(null)), "inputs[0].datatype: is required"),
            (input("datatype", json!(7)), "inputs[0].datatype: must be a string, got 7"),
            (input("datatype", json!("TEXT")), "inputs[0].datatype: unknown datatype 'TEXT'"),
            (input("data", json!([5])), "inputs[0].data: must be elements of datatype BYTES, got 5"),
        ] {
            let text = InferRequest::parse(body, Bytes::new()).unwrap_err().to_string();
            assert!(text.starts_with(start), "{text} / {start}");
        }
    }

    #[test]
    fn binary_tensors_follow_in_the_order_of_their_inputs() {
        let text = |size: Value| json!({"name": "a", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}});
        let number = json!({"name": "n", "datatype": "INT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}});
        let parse = |inputs: Value, binary: &'static [u8]| {
            InferRequest::parse(json!({ "inputs": inputs }), Bytes::from_static(binary))
                .map_err(|error| error.to_string())
        };
        let request = parse(json!([text(json!(6)), number]), b"\x02\0\0\0hi\x07\0\0\0").unwrap();
        assert_eq!(request.inputs[0].data, Elements::Bytes(vec!["hi".into()]));
        assert_eq!(request.inputs[1].data, Elements::Values(vec![json!(7)]));
        let mut both = number.clone();
        both["data"] = json!([1]);
        let mut shared = number.clone();
        shared["parameters"] = json!({"shared_memory_region": "r"});
        for (inputs, binary, start) in [
            (json!([number]), &b"\0\0\0"[..], "inputs[0].parameters.binary_data_size: announces 4 bytes, 3 are left"),
            (json!([number]), b"\0\0\0\0\0", "body: 1 bytes are left"),
            (json!([text(json!(-1))]), b"", "inputs[0].parameters.binary_data_size: must be a number"),
            (json!([text(json!(4))]), b"\x02\0\0\0", "inputs[0].data: element 0 announces 2 bytes"),
            (json!([both]), b"\0\0\0\0", "inputs[0].data: must not be given together"),
            (json!([shared]), b"", "inputs[0].parameters.shared_memory_region: shared memory is not"),
        ] {
            let text = parse(inputs, binary).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
    }
}
