"""Writes a whole bundle: graphs, tokenizer, verification against transformers, manifest."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from blip_onnx import manifest, quantization
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Bundle
from blip_onnx.graphs.writer import MANIFEST, Writer
from blip_onnx.options import ExportOptions
from blip_onnx.precision import Plan
from blip_onnx.verification import verify
from blip_onnx.verification.images import read_images

# The comparison with transformers takes seconds per image.
_VERIFIED_IMAGES = 32

logger = logging.getLogger(__name__)


def write(folder: Path, checkpoint: Checkpoint, options: ExportOptions) -> dict[str, Any]:
    """Write the bundle into `folder` and return its manifest; raises `ExportError`."""
    content = manifest.describe(checkpoint, options.precision, options.alpha, options.resize_order)
    images, pixels = _load_images(checkpoint, content, options)
    writer = Writer.from_checkpoint(checkpoint)
    stored = "fp16" if writer.fits_fp16 or options.precision == "fp16" else "fp32"
    logger.info("weights stored in %s, embeddings tied: %s", stored, writer.is_tied)
    if options.precision == "fp32":
        writer.write(folder, Plan(), content)
    else:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
            content["quantization"] = quantization.write(
                writer, folder, Path(scratch), content, pixels, options.min_agreement
            )
    content["verification"] = verify.verify(Bundle(folder), checkpoint, images)
    (folder / MANIFEST).unlink()
    content["files"] = manifest.file_entries(folder)
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return content


def _load_images(
    checkpoint: Checkpoint, content: dict[str, Any], options: ExportOptions
) -> tuple[list[PIL.Image.Image], list[np.ndarray]]:
    """Return the first images, for transformers, and below fp32 the pixels of all images."""
    images: list[PIL.Image.Image] = []
    pixels: list[np.ndarray] = []
    size = checkpoint.config.vision_config.image_size
    for image in read_images(options.images, size, options.alpha):
        if len(images) < _VERIFIED_IMAGES:
            images.append(image)
        elif options.precision == "fp32":
            break
        if options.precision != "fp32":
            pixels.append(verify.oracle_pixels(content, checkpoint, image))
    options.check_image_count(len(pixels))
    return images, pixels
