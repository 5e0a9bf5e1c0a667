//! The messages of gRPC's `ModelInfer`: to the same parsed form as JSON, and back.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    error::CaptionError,
    server::protocol::{
        echo,
        open_inference::{
            request::{
                InferInput, InferRequest, MAX_ENTRIES, RequestedOutput, check_datatype, check_id, check_shape, decode,
                refuse_shared_memory,
            },
            response::InferenceResponse,
            tensor::{self, Elements},
        },
        pb::inference::{
            InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
            infer_parameter::ParameterChoice,
            model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
            model_infer_response::InferOutputTensor,
        },
    },
};

impl InferRequest {
    /// Parses a message, except its `model_name` and `model_version`.
    pub(crate) fn from_message(message: ModelInferRequest) -> Result<Self, CaptionError> {
        let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
        let id = check_id(id).map_err(|reason| CaptionError::invalid("id", reason))?;
        if inputs.len() > MAX_ENTRIES || outputs.len() > MAX_ENTRIES {
            let field = if inputs.len() > MAX_ENTRIES { "inputs" } else { "outputs" };
            return Err(CaptionError::invalid(field, format!("must be at most {MAX_ENTRIES} tensors")));
        }
        let is_raw = !raw_input_contents.is_empty();
        if is_raw && raw_input_contents.len() != inputs.len() {
            let reason = format!("has {} entries for {} inputs", raw_input_contents.len(), inputs.len());
            return Err(CaptionError::invalid("raw_input_contents", reason));
        }
        let raw = raw_input_contents.into_iter().map(Some).chain(std::iter::repeat(None));
        let inputs = inputs.into_iter().zip(raw).enumerate();
        let inputs = inputs.map(|(index, (tensor, raw))| input(index, tensor, raw)).collect::<Result<_, _>>()?;
        let outputs = outputs.into_iter().enumerate().map(|(index, tensor)| output(index, tensor));
        Ok(Self {
            id: Some(id).filter(|id| !id.is_empty()),
            parameters: values(parameters)?,
            inputs,
            outputs: outputs.collect::<Result<_, _>>()?,
        })
    }
}

/// The response as a message, with raw contents: some clients index `raw_output_contents` unconditionally.
pub(crate) fn to_message(response: InferenceResponse) -> ModelInferResponse {
    let raw_output_contents = response.outputs.iter().map(|output| output.data.to_bytes()).collect();
    let outputs = response.outputs.into_iter().map(|output| InferOutputTensor {
        name: output.name.to_owned(),
        datatype: output.datatype.to_owned(),
        shape: output.shape.into_iter().map(|dimension| dimension as i64).collect(),
        ..InferOutputTensor::default()
    });
    ModelInferResponse {
        model_name: response.model_name,
        model_version: response.model_version,
        id: response.id.unwrap_or_default(),
        outputs: outputs.collect(),
        raw_output_contents,
        ..ModelInferResponse::default()
    }
}

fn input(index: usize, tensor: InferInputTensor, raw: Option<Bytes>) -> Result<InferInput, CaptionError> {
    let field = format!("inputs[{index}]");
    let InferInputTensor { name, datatype, shape, parameters, contents } = tensor;
    check_datatype(&field, &datatype)?;
    let shape: Option<Vec<usize>> = shape.into_iter().map(|dimension| usize::try_from(dimension).ok()).collect();
    let shape = check_shape(&field, shape)?;
    refuse_shared_memory(&field, parameters.keys())?;
    let mut data_field = format!("{field}.contents");
    let data = match (contents, raw) {
        (None, Some(raw)) => {
            data_field = format!("raw_input_contents[{index}]");
            decode(&data_field, &datatype, &shape, raw)?
        }
        (Some(contents), None) => {
            let elements = typed_contents(contents, &datatype, &shape);
            let elements = elements.map_err(|reason| CaptionError::invalid(data_field.clone(), reason))?;
            if matches!(elements, Elements::Bytes(_)) {
                data_field.push_str(".bytes_contents");
            }
            elements
        }
        (Some(_), Some(_)) => {
            return Err(CaptionError::invalid(data_field, "must not be given together with raw_input_contents"));
        }
        (None, None) => {
            return Err(CaptionError::invalid(data_field, "is required, or an entry in raw_input_contents"));
        }
    };
    Ok(InferInput { field, name, datatype, shape, data, data_field })
}

fn output(index: usize, tensor: InferRequestedOutputTensor) -> Result<RequestedOutput, CaptionError> {
    refuse_shared_memory(&format!("outputs[{index}]"), tensor.parameters.keys())?;
    Ok(RequestedOutput { name: tensor.name, is_binary: None })
}

/// The elements in the field of their datatype, as many as the product of `shape`.
fn typed_contents(contents: InferTensorContents, datatype: &str, shape: &[usize]) -> Result<Elements, String> {
    let c = contents;
    let (field, elements) = match datatype {
        "BYTES" => ("bytes_contents", Elements::Bytes(c.bytes_contents)),
        "BOOL" => ("bool_contents", numbers(c.bool_contents)),
        "INT8" | "INT16" | "INT32" => ("int_contents", numbers(c.int_contents)),
        "INT64" => ("int64_contents", numbers(c.int64_contents)),
        "UINT8" | "UINT16" | "UINT32" => ("uint_contents", numbers(c.uint_contents)),
        "UINT64" => ("uint64_contents", numbers(c.uint64_contents)),
        "FP32" => ("fp32_contents", numbers(c.fp32_contents)),
        "FP64" => ("fp64_contents", numbers(c.fp64_contents)),
        other => return Err(format!("cannot hold '{}'", echo(other))),
    };
    let (expected, given) = (tensor::count(shape)?, elements.len());
    if given == expected {
        Ok(elements)
    } else {
        Err(format!("{field} has {given} elements, shape {shape:?} is {expected} of {datatype}"))
    }
}

fn numbers<T: Into<Value>>(numbers: Vec<T>) -> Elements {
    Elements::Values(numbers.into_iter().map(Into::into).collect())
}

fn values(parameters: HashMap<String, InferParameter>) -> Result<Map<String, Value>, CaptionError> {
    if parameters.len() > MAX_ENTRIES {
        return Err(CaptionError::invalid("parameters", format!("must be at most {MAX_ENTRIES}")));
    }
    let value = |(name, parameter): (String, InferParameter)| match parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(flag)) => Ok((name, flag.into())),
        Some(ParameterChoice::Int64Param(integer)) => Ok((name, integer.into())),
        Some(ParameterChoice::Uint64Param(integer)) => Ok((name, integer.into())),
        Some(ParameterChoice::DoubleParam(number)) => Ok((name, number.into())),
        Some(ParameterChoice::StringParam(text)) => Ok((name, text.into())),
        None => Err(CaptionError::invalid(format!("parameters.{}", echo(&name)), "has no value")),
    };
    parameters.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tensor(datatype: &str, contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor { name: "n".into(), datatype: datatype.into(), shape: vec![1], contents, ..Default::default() }
    }

    fn parse(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> Result<Vec<Elements>, String> {
        let raw_input_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
        let message = ModelInferRequest { inputs, raw_input_contents, ..Default::default() };
        let request = InferRequest::from_message(message).map_err(|error| error.to_string())?;
        Ok(request.inputs.into_iter().map(|input| input.data).collect())
    }

    #[test]
    fn contents_are_typed_or_raw() {
        let float = InferTensorContents { fp32_contents: vec![0.5], ..Default::default() };
        let text = InferTensorContents { bytes_contents: vec!["a".into()], ..Default::default() };
        let typed = parse(vec![tensor("FP32", Some(float)), tensor("BYTES", Some(text))], &[]).unwrap();
        let raw = parse(vec![tensor("FP32", None), tensor("BYTES", None)], &[b"\0\0\0\x3f", b"\x01\0\0\0a"]).unwrap();
        assert_eq!(typed, raw);
        assert_eq!(raw, [Elements::Values(vec![json!(0.5)]), Elements::Bytes(vec!["a".into()])]);
    }

    #[test]
    fn mistakes_name_their_field() {
        let empty = InferTensorContents::default();
        let negative = InferInputTensor { shape: vec![-1], ..tensor("BYTES", None) };
        for (inputs, raw, start) in [
            (vec![tensor("BYTES", None)], &[][..], "inputs[0].contents: is required"),
            (vec![tensor("BYTES", Some(empty.clone()))], &[][..], "inputs[0].contents: bytes_contents has 0 elements"),
            (vec![tensor("BYTES", Some(empty.clone()))], &[&b""[..]][..], "inputs[0].contents: must not be given"),
            (vec![tensor("FP16", Some(empty))], &[], "inputs[0].contents: cannot hold 'FP16'"),
            (vec![tensor("BYTES", None)], &[b"x"], "raw_input_contents[0]: ends before element 0"),
            (vec![tensor("INT32", None)], &[b"x"], "raw_input_contents[0]: has 1 bytes"),
            (vec![tensor("BYTES", None)], &[b"", b""], "raw_input_contents: has 2 entries for 1 inputs"),
            (vec![tensor("TEXT", None)], &[b""], "inputs[0].datatype: unknown datatype 'TEXT'"),
            (vec![negative], &[b""], "inputs[0].shape: must be"),
        ] {
            let text = parse(inputs, raw).unwrap_err();
            assert!(text.starts_with(start), "{text} / {start}");
        }
        let parameters = HashMap::from([("p".to_owned(), InferParameter::default())]);
        let error = InferRequest::from_message(ModelInferRequest { parameters, ..Default::default() }).unwrap_err();
        assert_eq!(error.to_string(), "parameters.p: has no value");
    }
}
