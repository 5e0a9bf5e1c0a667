"""The manifest of a bundle: every number and rule of a model that the service reads.

A checkpoint whose settings the service does not implement raises an `ExportError` here, so that
the captions of a bundle never differ from those of transformers.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import PIL
import PIL.Image
import torch
import transformers
from transformers import GenerationConfig

from blip_onnx import ExportError
from blip_onnx.checkpoint import Checkpoint

_RESAMPLE = {filter.value: filter.name.lower() for filter in PIL.Image.Resampling}
# Generation settings that the service implements, with transformers' names and defaults.
_SERVED_DEFAULTS = {
    "max_new_tokens": 20,
    "min_new_tokens": None,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
# Settings that do not change the tokens, or that BLIP's generate overrides.
_IGNORED_GENERATION = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "transformers_version",
    "_from_model_config",
}


def describe(
    checkpoint: Checkpoint, precision: str, alpha: str, resize_order: str
) -> dict[str, Any]:
    """Return the manifest without verification and files, which are known after writing."""
    _check_ids(checkpoint)
    return {
        "format_version": 2,
        "model_type": "blip",
        "source": {"model": checkpoint.name, "revision": checkpoint.revision},
        "exported_with": {
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "transformers": transformers.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "pillow": PIL.__version__,
        },
        "precision": precision,
        "vision": _vision(checkpoint.config.vision_config),
        "text": _text(checkpoint.config.text_config),
        "prompt": {
            "replace_first_with": checkpoint.config.text_config.bos_token_id,
            "drop_last": True,
        },
        "preprocessor": _preprocessor(checkpoint, alpha, resize_order),
        "tokenizer": {
            "clean_up_tokenization_spaces": bool(checkpoint.tokenizer.clean_up_tokenization_spaces)
        },
        "generation": _generation(checkpoint),
    }


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the checksum and the size in bytes of every file in `folder`."""
    entries = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    return entries


def prompt_ids(tokenizer: Any, manifest: dict[str, Any], prompt: str | None) -> list[int]:
    """Return the token ids that a caption starts with, by the manifest's prompt rule."""
    rule = manifest["prompt"]
    if not prompt:
        return [manifest["text"]["bos_token_id"]]
    ids = tokenizer(prompt).input_ids
    return [rule["replace_first_with"], *ids[1 : -1 if rule["drop_last"] else None]]


def preprocess(image: PIL.Image.Image, manifest: dict[str, Any]) -> np.ndarray:
    """Return float32 `[1, 3, height, width]` pixels of an RGB image, as the manifest describes."""
    settings = manifest["preprocessor"]
    resample = PIL.Image.Resampling[settings["resample"].upper()]
    size = (settings["width"], settings["height"])
    pixels = np.asarray(image.resize(size, resample)).astype(np.float64)  # [height, width, 3]
    if settings["do_rescale"]:
        pixels = pixels * settings["rescale_factor"]
    pixels = pixels.astype(np.float32)
    if settings["do_normalize"]:
        mean = np.array(settings["image_mean"], np.float32)
        pixels = (pixels - mean) / np.array(settings["image_std"], np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _check_ids(checkpoint: Checkpoint) -> None:
    text = checkpoint.config.text_config
    for name in ("bos_token_id", "sep_token_id", "pad_token_id"):
        value = getattr(text, name)
        if not isinstance(value, int) or not 0 <= value < text.vocab_size:
            limit = text.vocab_size - 1
            raise ExportError(f"text_config.{name}: must be between 0 and {limit}, got {value}")


def _vision(vision: Any) -> dict[str, int]:
    for name in ("image_size", "patch_size"):
        value = getattr(vision, name)
        if not isinstance(value, int):
            raise ExportError(f"vision_config.{name}: must be one number (a square), got {value}")
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "num_tokens": (vision.image_size // vision.patch_size) ** 2 + 1,
    }


def _text(text: Any) -> dict[str, int]:
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "head_dim": text.hidden_size // text.num_attention_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "bos_token_id": text.bos_token_id,
        # generate stops at sep_token_id and does not read text_config.eos_token_id.
        "eos_token_id": text.sep_token_id,
        "pad_token_id": text.pad_token_id,
    }


def _preprocessor(checkpoint: Checkpoint, alpha: str, resize_order: str) -> dict[str, Any]:
    settings = checkpoint.image_processor.to_dict()
    for name in ("do_resize", "do_convert_rgb"):
        if settings.get(name) is not True:
            raise ExportError(f"preprocessor.{name}: must be true, got {settings.get(name)}")
    for name in ("do_center_crop", "do_pad"):
        if settings.get(name):
            raise ExportError(f"preprocessor.{name}: must be false, got {settings[name]}")
    size, image_size = dict(settings["size"]), checkpoint.config.vision_config.image_size
    square = {"height": image_size, "width": image_size}
    if size != square:
        raise ExportError(f"preprocessor.size: must be {square}, the model's input, got {size}")
    return {
        "height": size["height"],
        "width": size["width"],
        "resample": _resample(settings["resample"]),
        "resize_order": resize_order,
        "alpha": alpha,
        "do_rescale": bool(settings["do_rescale"]),
        "rescale_factor": float(settings["rescale_factor"]),
        "do_normalize": bool(settings["do_normalize"]),
        "image_mean": _per_channel("image_mean", settings["image_mean"]),
        "image_std": _per_channel("image_std", settings["image_std"]),
    }


def _resample(value: Any) -> str:
    if value not in _RESAMPLE:
        known = ", ".join(map(str, sorted(_RESAMPLE)))
        raise ExportError(f"preprocessor.resample: must be one of {known}, got {value}")
    return _RESAMPLE[int(value)]


def _per_channel(name: str, values: Any) -> list[float]:
    if isinstance(values, (int, float)):
        return [float(values)] * 3
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise ExportError(f"preprocessor.{name}: must be a number or three, got {values}")
    return [float(value) for value in values]


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the defaults of the decoder's generation config, which is the one generate uses."""
    settings = checkpoint.model.text_decoder.generation_config.to_dict()
    defaults = GenerationConfig().to_dict()
    defaults.update(GenerationConfig._get_default_generation_params())
    generation = {name: _SERVED_DEFAULTS[name] for name in ("max_new_tokens", "num_beams")}
    for name, value in settings.items():
        if value is None or name in _IGNORED_GENERATION or value == defaults.get(name):
            continue
        if name not in _SERVED_DEFAULTS:
            raise ExportError(
                f"generation.{name}: the service does not implement this setting; must be "
                f"transformers' default, got {value}"
            )
        generation[name] = value
    return generation
