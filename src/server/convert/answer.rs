//! The answer to an Open Inference request: which outputs were asked for, and their tensors.
//!
//! Every output has one row per caption, image-major, in the rank that the images came in. The caption is always first,
//! because clients read `outputs[0].data[0]`.

use serde::Serialize;

use crate::{
    caption::{Caption, CaptionReply},
    error::CaptionError,
    generation::FinishReason,
    server::convert::echo,
};

/// How the answer is to be written.
#[derive(Debug)]
pub(crate) struct AnswerForm {
    /// To be echoed.
    pub(crate) id: Option<String>,
    /// 1 or 2.
    pub(crate) rank: usize,
    /// At least one.
    pub(crate) outputs: Vec<Output>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Score,
    FinishReason,
}

/// The answer; keys in the order that other servers write them.
#[derive(Debug, Serialize)]
pub(crate) struct InferResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    pub(crate) outputs: Vec<InferOutput>,
}

/// One output tensor.
#[derive(Debug, Serialize)]
pub(crate) struct InferOutput {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: OutputData,
}

/// Elements of an output, row-major.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OutputData {
    /// BYTES.
    Text(Vec<String>),
    /// FP32.
    Numbers(Vec<f32>),
}

impl AnswerForm {
    /// The answer of model `name` of this `version`, image-major.
    pub(crate) fn response(self, name: &str, version: &str, replies: Vec<CaptionReply>) -> InferResponse {
        let captions: Vec<Caption> = replies.into_iter().flat_map(|reply| reply.captions).collect();
        let shape = if self.rank == 2 { vec![captions.len(), 1] } else { vec![captions.len()] };
        let outputs = self.outputs.into_iter().map(|output| output.tensor(&captions, shape.clone())).collect();
        InferResponse { id: self.id, model_name: name.to_owned(), model_version: version.to_owned(), outputs }
    }
}

impl Output {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "generated_output" => Some(Self::Text),
            "score" => Some(Self::Score),
            "finish_reason" => Some(Self::FinishReason),
            _ => None,
        }
    }

    fn tensor(self, captions: &[Caption], shape: Vec<usize>) -> InferOutput {
        let text = |of: fn(&Caption) -> String| OutputData::Text(captions.iter().map(of).collect());
        let (name, datatype, data) = match self {
            Self::Text => ("generated_output", "BYTES", text(|caption| caption.text.clone())),
            Self::Score => ("score", "FP32", OutputData::Numbers(captions.iter().map(|c| c.score).collect())),
            Self::FinishReason => ("finish_reason", "BYTES", text(|caption| finish_reason(caption).to_owned())),
        };
        InferOutput { name, datatype, shape, data }
    }
}

/// The outputs asked for, the caption first; by default the caption alone.
pub(crate) fn outputs(names: &[String], model: &str) -> Result<Vec<Output>, CaptionError> {
    let mut outputs = vec![];
    for (index, name) in names.iter().enumerate() {
        let field = || format!("outputs[{index}].name");
        let output = Output::parse(name).ok_or_else(|| {
            CaptionError::invalid(field(), format!("unexpected inference output '{}' for model '{model}'", echo(name)))
        })?;
        if outputs.contains(&output) {
            return Err(CaptionError::invalid(field(), format!("'{name}' is given twice")));
        }
        outputs.push(output);
    }
    if outputs.is_empty() {
        outputs.push(Output::Text);
    }
    // The caption comes first, whatever the order asked: clients read outputs[0].
    outputs.sort_by_key(|output| *output != Output::Text);
    Ok(outputs)
}

fn finish_reason(caption: &Caption) -> &'static str {
    match caption.finish_reason {
        FinishReason::Eos => "eos",
        FinishReason::Length => "length",
    }
}
