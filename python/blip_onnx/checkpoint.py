"""Loads a BLIP captioning checkpoint exactly as transformers does, and refuses incomplete ones.

Everything is loaded with transformers' `from_pretrained`. Where transformers would continue
(with weights initialised at random, an empty vocabulary or another model's image processor), an
`ExportError` is raised.
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
    """A loaded checkpoint: the model, tokenizer and image processor that transformers runs."""

    name: str
    revision: str | None
    model: BlipForConditionalGeneration
    tokenizer: Any
    image_processor: BlipImageProcessorPil

    @property
    def config(self) -> Any:
        """Return the model's `BlipConfig`."""
        return self.model.config


def load(name: str, revision: str | None) -> Checkpoint:
    """Load hub id or folder `name` in float32; raises `ExportError`."""
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
        raise ExportError(f"model {name!r}: cannot be loaded: {_first_line(error)}") from error
    if not config:
        raise ExportError(f"model {name!r}: has no config.json")
    architectures = config.get("architectures") or [_ARCHITECTURE]
    if config.get("model_type") != "blip" or _ARCHITECTURE not in architectures:
        found = f"{config.get('model_type')} ({', '.join(architectures)})"
        raise ExportError(f"model {name!r}: must be a {_ARCHITECTURE}, is {found}")
    return config


def _load_tokenizer(name: str, revision: str | None, config: dict[str, Any]) -> Any:
    # Without these files transformers builds a tokenizer with an empty vocabulary.
    files = ("tokenizer.json", "vocab.txt")
    if not any(_has_file(name, revision, file) for file in files):
        raise ExportError(f"model {name!r}: has no tokenizer (neither {' nor '.join(files)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except _LOAD_ERRORS as error:
        line = _first_line(error)
        raise ExportError(f"tokenizer of {name!r}: cannot be loaded: {line}") from error
    if not tokenizer.is_fast:
        raise ExportError(f"tokenizer of {name!r}: must have a tokenizers backend")
    separator = (config.get("text_config") or {}).get("sep_token_id", 102)
    ids = tokenizer("a picture of").input_ids
    if len(ids) < 3 or ids[-1] != separator or tokenizer.unk_token_id in ids:
        raise ExportError(
            f"tokenizer of {name!r}: must encode 'a picture of' as known words with the separator "
            f"{separator} at the end, got {ids}"
        )
    return tokenizer


def _load_image_processor(
    name: str, revision: str | None, config: dict[str, Any]
) -> BlipImageProcessorPil:
    files = ("preprocessor_config.json", "processor_config.json")
    if not any(_has_file(name, revision, file) for file in files):
        raise ExportError(f"model {name!r}: has no {files[0]}")
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
    except _LOAD_ERRORS as error:
        line = _first_line(error)
        raise ExportError(f"preprocessor of {name!r}: cannot be loaded: {line}") from error
    if not isinstance(processor, BlipImageProcessorPil):
        kind = type(processor).__name__
        raise ExportError(f"preprocessor of {name!r}: must be a BlipImageProcessor, is {kind}")
    return processor


def _load_model(name: str, revision: str | None) -> BlipForConditionalGeneration:
    try:
        model, info = BlipForConditionalGeneration.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except _LOAD_ERRORS as error:
        line = _first_line(error)
        raise ExportError(f"weights of {name!r}: cannot be loaded: {line}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := sorted(map(str, info.get(problem) or ())):
            # transformers would initialise these weights at random and continue.
            label = problem.replace("_", " ")
            raise ExportError(f"weights of {name!r}: {len(found)} {label}, first: {found[0]}")
    return model.eval()


def _has_file(name: str, revision: str | None, file: str) -> bool:
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    try:
        return cached_file(name, file, **options) is not None
    except _LOAD_ERRORS as error:
        line = _first_line(error)
        raise ExportError(f"{file} of {name!r}: cannot be read: {line}") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
