"""Loads a BLIP captioning checkpoint exactly as the oracle does, and refuses anything less.

Everything goes through transformers' own from_pretrained. What transformers would paper over
(weights initialised at random, a tokenizer made of nothing, an image pipeline that is not BLIP's)
is an `ExportError` here.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.utils.hub import cached_file

from blip_onnx import ExportError

_ARCHITECTURE = "BlipForConditionalGeneration"
_LOAD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    KeyError,
    AttributeError,
    SafetensorError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: what the oracle captions with."""

    name: str
    revision: str | None
    model: BlipForConditionalGeneration
    tokenizer: Any
    image_processor: BlipImageProcessorPil

    @property
    def config(self) -> Any:
        """The model's `BlipConfig`."""
        return self.model.config


def load(name: str, revision: str | None) -> Checkpoint:
    """Load hub id or folder `name` in float32."""
    config = _load_config(name, revision)
    tokenizer = _load_tokenizer(name, revision, config)
    image_processor = _load_image_processor(name, revision, config)
    model = _load_model(name, revision)
    resolved = getattr(model.config, "_commit_hash", None) or revision
    return Checkpoint(name, resolved, model, tokenizer, image_processor)


def _load_config(name: str, revision: str | None) -> dict[str, Any]:
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(name, revision=revision)
    except _LOAD_ERRORS as error:
        raise ExportError(f"cannot load model {name!r}: {_line(error)}") from error
    if not config:
        raise ExportError(f"model {name!r} has no config.json")
    architectures = config.get("architectures") or [_ARCHITECTURE]
    if config.get("model_type") != "blip" or _ARCHITECTURE not in architectures:
        found = f"{config.get('model_type')} ({', '.join(architectures)})"
        raise ExportError(f"model {name!r} is {found}, only {_ARCHITECTURE} can be exported")
    return config


def _load_tokenizer(name: str, revision: str | None, config: dict[str, Any]) -> Any:
    # Without these files transformers builds a tokenizer that knows no word.
    files = ("tokenizer.json", "vocab.txt")
    if not any(_has_file(name, revision, file) for file in files):
        raise ExportError(f"model {name!r} has no tokenizer (neither {' nor '.join(files)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except _LOAD_ERRORS as error:
        raise ExportError(f"cannot load the tokenizer of {name!r}: {_line(error)}") from error
    if not tokenizer.is_fast:
        raise ExportError(f"the tokenizer of {name!r} has no tokenizers backend")
    separator = (config.get("text_config") or {}).get("sep_token_id", 102)
    ids = tokenizer("a picture of").input_ids
    if len(ids) < 3 or ids[-1] != separator or tokenizer.unk_token_id in ids:
        raise ExportError(
            f"the tokenizer of {name!r} is unusable: 'a picture of' becomes {ids}, "
            f"expected words and the separator {separator} at the end"
        )
    return tokenizer


def _load_image_processor(
    name: str, revision: str | None, config: dict[str, Any]
) -> BlipImageProcessorPil:
    files = ("preprocessor_config.json", "processor_config.json")
    if not any(_has_file(name, revision, file) for file in files):
        raise ExportError(f"model {name!r} has no {files[0]}")
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
    except _LOAD_ERRORS as error:
        raise ExportError(f"cannot load the preprocessor of {name!r}: {_line(error)}") from error
    if not isinstance(processor, BlipImageProcessorPil):
        kind = type(processor).__name__
        raise ExportError(f"image processor {kind} is not supported, only BlipImageProcessor")
    return processor


def _load_model(name: str, revision: str | None) -> BlipForConditionalGeneration:
    try:
        model, info = BlipForConditionalGeneration.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except _LOAD_ERRORS as error:
        raise ExportError(f"cannot load the weights of {name!r}: {_line(error)}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := sorted(map(str, info.get(problem) or ())):
            # transformers would go on with random numbers in their place.
            label = problem.replace("_", " ")
            raise ExportError(f"weights of {name!r}: {len(found)} {label}, first: {found[0]}")
    return model.eval()


def _has_file(name: str, revision: str | None, file: str) -> bool:
    try:
        return (
            cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            is not None
        )
    except _LOAD_ERRORS as error:
        raise ExportError(f"cannot read {file} of {name!r}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """The first sentence-like line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
