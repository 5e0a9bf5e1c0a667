"""Exports a BLIP captioning checkpoint as an ONNX bundle that blip-serve loads.

Usage: `python scripts/export_onnx.py --model <hub id or folder> --output <folder>`. The bundle is
verified against transformers before it appears under its name; any failure is one line on stderr,
a non-zero exit and no folder.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_onnx import ExportError

if TYPE_CHECKING:
    import numpy as np
    from blip_onnx.checkpoint import Checkpoint

logger = logging.getLogger("export_onnx")


@dataclass(frozen=True)
class ExportConfig:
    """What was asked for on the command line."""

    model: str
    output: Path
    revision: str | None
    precision: str
    images: Path | None
    min_agreement: float
    alpha: str
    resize_order: str


def parse_arguments(arguments: list[str] | None = None) -> ExportConfig:
    """The command line as an `ExportConfig`; exits with 2 when it is malformed."""
    parser = argparse.ArgumentParser(description="Export a BLIP captioning checkpoint to ONNX.")
    parser.add_argument("--model", required=True, help="hub id or folder of the checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="new or empty folder")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    parser.add_argument("--images", type=Path, help="folder of pictures to verify with")
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.95,
        help="share of equal captions that fp16 and int8 must reach; fp32 must reach all",
    )
    parser.add_argument(
        "--alpha",
        choices=("white", "drop"),
        default="white",
        help="transparent pixels: on white (transformers 5) or dropped (transformers 4)",
    )
    parser.add_argument(
        "--resize-order",
        choices=("pillow13", "pillow12"),
        default="pillow13",
        help="order of the resize passes, by Pillow version",
    )
    return ExportConfig(**vars(parser.parse_args(arguments)))


def export(config: ExportConfig) -> dict[str, Any]:
    """Write and verify the bundle `config` asks for; the manifest on success."""
    _check_request(config)
    # torch and transformers take seconds to import; a refused request need not wait for them.
    import transformers
    from blip_onnx import checkpoint as checkpoints

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    checkpoint = checkpoints.load(config.model, config.revision)
    logger.info("loaded %s", config.model)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    partial = config.output.parent / f".{config.output.name}.partial-{os.getpid()}"
    try:
        partial.mkdir()
        manifest = _write_bundle(partial, checkpoint, config)
        # Atomic: the bundle appears under its name complete, or not at all.
        partial.rename(config.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _check_request(config: ExportConfig) -> None:
    if config.precision != "fp32":
        raise ExportError(f"--precision {config.precision} is not available in this version")
    if not 0 <= config.min_agreement <= 1:
        raise ExportError(f"--min-agreement {config.min_agreement} is not between 0 and 1")
    if config.output.exists():
        if not config.output.is_dir():
            raise ExportError(f"--output {config.output} is not a folder")
        if any(config.output.iterdir()):
            raise ExportError(f"--output {config.output} is not empty")
    if config.images is not None and not config.images.is_dir():
        raise ExportError(f"--images {config.images} is not a folder")


def _write_bundle(folder: Path, checkpoint: Checkpoint, config: ExportConfig) -> dict[str, Any]:
    """Fill `folder`: graphs, tokenizer and, once verified, the manifest."""
    from blip_onnx import manifest as manifests
    from blip_onnx import pictures, text, verify, vision
    from onnx_generate import Bundle

    image_size = checkpoint.config.vision_config.image_size
    images = pictures.load_images(config.images, image_size, config.alpha)
    manifest = manifests.describe(checkpoint, config.alpha, config.resize_order)
    weights = {name: tensor.numpy() for name, tensor in checkpoint.model.state_dict().items()}
    half = _fits_half(weights)
    tied = _is_tied(weights)
    logger.info("weights stored in %s, embeddings tied: %s", "fp16" if half else "fp32", tied)
    vision.build(checkpoint.config, weights, half).save(folder / "vision_encoder.onnx")
    text.build(checkpoint.config, weights, half, tied).save(folder / "text_decoder.onnx")
    _write_tokenizer(folder / "tokenizer.json", checkpoint.tokenizer)
    manifest_path = folder / "manifest.json"
    manifest_path.write_text(json.dumps(manifest), "utf-8")
    manifest["verification"] = verify.verify(Bundle(folder), checkpoint, images)
    manifest_path.unlink()
    manifest["files"] = manifests.file_entries(folder)
    manifest_path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return manifest


def _fits_half(weights: dict[str, np.ndarray]) -> bool:
    """Whether fp16 holds every weight exactly."""
    import numpy as np

    with np.errstate(over="ignore"):
        return all(np.array_equal(array, array.astype(np.float16)) for array in weights.values())


def _is_tied(weights: dict[str, np.ndarray]) -> bool:
    """Whether the vocabulary projection really equals the word embeddings."""
    import numpy as np

    embeddings = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    return np.array_equal(embeddings, weights["text_decoder.cls.predictions.decoder.weight"])


def _write_tokenizer(path: Path, tokenizer: Any) -> None:
    """The tokenizer the oracle uses, without truncation or padding left from an earlier call."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    path.write_text(backend.to_str(), "utf-8")


def main() -> int:
    """Run the exporter; the process exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # So that a terminated export removes its partial folder, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    config = parse_arguments()
    try:
        manifest = export(config)
    except ExportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        reason = "disk full" if error.errno in (errno.ENOSPC, errno.EFBIG) else str(error)
        sys.stderr.write(f"error: cannot write {config.output}: {reason}\n")
        return 1
    figures = manifest["verification"]
    logger.info(
        "%s: verified against transformers, %d captions of %d images (%d tokens), "
        "largest logit difference %.3g",
        config.output,
        figures["cases"],
        figures["images"],
        figures["tokens"],
        figures["max_abs_logit_difference"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
