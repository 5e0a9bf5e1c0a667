//! The answer to an Open Inference request: which outputs were asked for, and their tensors.
//!
//! Every output has one row per caption, image-major, in the rank that the images came in. The caption is always first,
//! because clients read `outputs[0].data[0]`.

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

/// How the answer is to be written.
#[derive(Clone, Debug)]
pub(crate) struct AnswerForm {
    /// To be echoed.
    pub(crate) id: Option<String>,
    /// 1 or 2.
    pub(crate) rank: usize,
    /// At least one; `true` for those that go as bytes behind the JSON.
    pub(crate) outputs: Vec<(Output, bool)>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    TokenIds,
    Score,
    FinishReason,
}

/// The answer, not yet in the form of a transport.
#[derive(Debug)]
pub(crate) struct Answer {
    /// To be echoed.
    pub(crate) id: Option<String>,
    /// The model's own name.
    pub(crate) model_name: String,
    /// Its version.
    pub(crate) model_version: String,
    /// In the order of the answer.
    pub(crate) outputs: Vec<OutputTensor>,
}

/// One output tensor.
#[derive(Debug)]
pub(crate) struct OutputTensor {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: OutputData,
    /// As bytes, where the transport has both forms.
    pub(crate) binary: bool,
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

impl AnswerForm {
    /// The answer of `model`, image-major.
    pub(crate) fn answer(self, model: &ServedModel, replies: Vec<CaptionReply>) -> Answer {
        let captions: Vec<Caption> = replies.into_iter().flat_map(|reply| reply.captions).collect();
        let tensor = |(output, binary): (Output, bool)| {
            let (mut shape, data) = output.column(&captions, model.pad_token_id());
            if self.rank == 2 && shape.len() == 1 {
                shape.push(1);
            }
            OutputTensor { name: output.name(), datatype: data.datatype(), shape, data, binary }
        };
        let outputs = self.outputs.iter().copied().map(tensor).collect();
        Answer { id: self.id, model_name: model.name.clone(), model_version: model.version.clone(), outputs }
    }
}

impl AnswerForm {
    /// The next piece of a caption that is read along.
    pub(crate) fn piece(&self, model: &ServedModel, text: String) -> Answer {
        let data = OutputData::Text(vec![text]);
        let (name, datatype) = (Output::Text.name(), data.datatype());
        let output = OutputTensor { name, datatype, shape: vec![1; self.rank], data, binary: false };
        let (model_name, model_version) = (model.name.clone(), model.version.clone());
        Answer { id: self.id.clone(), model_name, model_version, outputs: vec![output] }
    }
}

impl Output {
    /// All of them, the default first.
    pub(crate) const ALL: [Self; 4] = [Self::Text, Self::TokenIds, Self::Score, Self::FinishReason];

    /// Of the tensor.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "generated_output",
            Self::TokenIds => "token_ids",
            Self::Score => "score",
            Self::FinishReason => "finish_reason",
        }
    }

    /// What one row of it is: datatype, and elements, of which -1 is any number.
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
                // As `generate` of transformers returns them: rows filled up to the longest.
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

/// The outputs asked for, the caption first; by default the caption alone. `binary` is for those that do not say.
pub(crate) fn outputs(
    asked: &[RequestedOutput],
    binary: bool,
    model: &str,
) -> Result<Vec<(Output, bool)>, CaptionError> {
    let mut outputs: Vec<(Output, bool)> = vec![];
    for (index, RequestedOutput { name, binary: own }) in asked.iter().enumerate() {
        let field = || format!("outputs[{index}].name");
        let output = Output::ALL.into_iter().find(|output| output.name() == name).ok_or_else(|| {
            CaptionError::invalid(field(), format!("unexpected inference output '{}' for model '{model}'", echo(name)))
        })?;
        if outputs.iter().any(|(known, _)| *known == output) {
            return Err(CaptionError::invalid(field(), format!("'{name}' is given twice")));
        }
        outputs.push((output, own.unwrap_or(binary)));
    }
    if outputs.is_empty() {
        outputs.push((Output::Text, binary));
    }
    // The caption comes first, whatever the order asked: clients read outputs[0].
    outputs.sort_by_key(|(output, _)| *output != Output::Text);
    Ok(outputs)
}
