//! The response to an Open Inference request: the requested outputs and their tensors, before a transport writes them.
//!
//! Every output has one row per caption, image-major, in the rank of the tensor of the images. The caption is always
//! first, because clients read `outputs[0].data[0]`.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::{
    caption::{Caption, CaptionReply},
    error::CaptionError,
    registry::ServedModel,
    server::protocol::{
        echo,
        open_inference::{request::RequestedOutput, tensor::put_string},
    },
};
use generation::TokenId;

/// How the response is written.
#[derive(Clone, Debug)]
pub(crate) struct ResponseSpec {
    /// The request's id, which is echoed.
    pub(crate) id: Option<String>,
    /// Dimensions of the tensors, 1 or 2.
    pub(crate) rank: usize,
    /// At least one.
    pub(crate) outputs: Vec<OutputSpec>,
}

/// One output of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputSpec {
    pub(crate) output: Output,
    /// Whether it is sent as bytes after the JSON, where the transport has both.
    pub(crate) is_binary: bool,
}

/// The outputs that a request can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    TokenIds,
    Score,
    FinishReason,
}

/// The response, not yet in the form of a transport.
#[derive(Debug)]
pub(crate) struct InferenceResponse {
    /// The request's id, which is echoed.
    pub(crate) id: Option<String>,
    /// Name of the model, not the alias of the request.
    pub(crate) model_name: String,
    /// Version of the model.
    pub(crate) model_version: String,
    /// The outputs in the order of the response.
    pub(crate) outputs: Vec<OutputTensor>,
}

/// One output tensor.
#[derive(Debug)]
pub(crate) struct OutputTensor {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: OutputData,
    /// Whether it is sent as bytes after the JSON, where the transport has both.
    pub(crate) is_binary: bool,
}

/// Elements of an output, row-major.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OutputData {
    /// BYTES.
    Text(Vec<String>),
    /// FP32.
    Numbers(Vec<f32>),
    /// INT64.
    Integers(Vec<i64>),
}

impl ResponseSpec {
    /// The response of `model`, image-major.
    pub(crate) fn response(self, model: &ServedModel, replies: Vec<CaptionReply>) -> InferenceResponse {
        let captions: Vec<Caption> = replies.into_iter().flat_map(|reply| reply.captions).collect();
        let outputs = self.outputs.into_iter().map(|OutputSpec { output, is_binary }| {
            let (mut shape, data) = output.column(&captions, model.pad_token_id());
            if self.rank == 2 && shape.len() == 1 {
                shape.push(1);
            }
            OutputTensor { name: output.name(), datatype: data.datatype(), shape, data, is_binary }
        });
        let (model_name, model_version) = (model.name.clone(), model.version.clone());
        InferenceResponse { id: self.id, model_name, model_version, outputs: outputs.collect() }
    }

    /// The next piece of a caption that is streamed.
    pub(crate) fn piece(&self, model: &ServedModel, text: String) -> InferenceResponse {
        let data = OutputData::Text(vec![text]);
        let (name, datatype) = (Output::Text.name(), data.datatype());
        let output = OutputTensor { name, datatype, shape: vec![1; self.rank], data, is_binary: false };
        let (model_name, model_version) = (model.name.clone(), model.version.clone());
        InferenceResponse { id: self.id.clone(), model_name, model_version, outputs: vec![output] }
    }
}

impl Output {
    /// Every output, the default first.
    pub(crate) const ALL: [Self; 4] = [Self::Text, Self::TokenIds, Self::Score, Self::FinishReason];

    /// Name of the tensor.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "generated_output",
            Self::TokenIds => "token_ids",
            Self::Score => "score",
            Self::FinishReason => "finish_reason",
        }
    }

    /// Datatype of the tensor and elements in one of its rows, -1 for any number.
    pub(crate) fn row(self) -> (&'static str, i64) {
        match self {
            Self::Text | Self::FinishReason => ("BYTES", 1),
            Self::TokenIds => ("INT64", -1),
            Self::Score => ("FP32", 1),
        }
    }

    /// Shape and elements for these captions.
    fn column(self, captions: &[Caption], pad_token_id: TokenId) -> (Vec<usize>, OutputData) {
        let text = |of: fn(&Caption) -> String| OutputData::Text(captions.iter().map(of).collect());
        let data = match self {
            Self::Text => text(|caption| caption.text.clone()),
            Self::FinishReason => text(|caption| caption.finish_reason.as_str().to_owned()),
            Self::Score => OutputData::Numbers(captions.iter().map(|caption| caption.score).collect()),
            Self::TokenIds => {
                // As transformers' `generate` returns them: rows padded to the longest.
                let width = captions.iter().map(|caption| caption.token_ids.len()).max().unwrap_or_default();
                let rows = captions.iter().flat_map(|caption| {
                    let ids = caption.token_ids.iter().chain(std::iter::repeat(&pad_token_id));
                    ids.take(width).map(|id| i64::from(*id))
                });
                return (vec![captions.len(), width], OutputData::Integers(rows.collect()));
            }
        };
        (vec![captions.len()], data)
    }
}

impl OutputData {
    /// The form of the binary tensor extension and of gRPC's raw contents.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Self::Text(texts) => texts.iter().for_each(|text| put_string(&mut bytes, text.as_bytes())),
            Self::Numbers(numbers) => numbers.iter().for_each(|number| bytes.put_f32_le(*number)),
            Self::Integers(integers) => integers.iter().for_each(|integer| bytes.put_i64_le(*integer)),
        }
        bytes.freeze()
    }

    fn datatype(&self) -> &'static str {
        match self {
            Self::Text(_) => "BYTES",
            Self::Numbers(_) => "FP32",
            Self::Integers(_) => "INT64",
        }
    }
}

/// The requested outputs, the caption first; by default only the caption. `is_binary` is the default of each output.
pub(crate) fn requested_outputs(
    requested: &[RequestedOutput],
    is_binary: bool,
    model: &str,
) -> Result<Vec<OutputSpec>, CaptionError> {
    let mut outputs: Vec<OutputSpec> = vec![];
    for (index, RequestedOutput { name, is_binary: own }) in requested.iter().enumerate() {
        let field = || format!("outputs[{index}].name");
        let output = Output::ALL.into_iter().find(|output| output.name() == name).ok_or_else(|| {
            CaptionError::invalid(field(), format!("unexpected inference output '{}' for model '{model}'", echo(name)))
        })?;
        if outputs.iter().any(|known| known.output == output) {
            return Err(CaptionError::invalid(field(), format!("'{name}' is given twice")));
        }
        outputs.push(OutputSpec { output, is_binary: own.unwrap_or(is_binary) });
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec { output: Output::Text, is_binary });
    }
    // Whatever the order of the request: clients read outputs[0].
    outputs.sort_by_key(|spec| spec.output != Output::Text);
    Ok(outputs)
}
