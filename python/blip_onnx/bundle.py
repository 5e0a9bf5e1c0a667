"""A whole bundle: graphs, tokenizer, the proof that they caption rightly, and the manifest."""

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
from blip_onnx.precision import Plan
from blip_onnx.request import Request
from blip_onnx.verification import verify
from blip_onnx.verification.images import read_images

# Compared with transformers, which takes long.
_VERIFIED_IMAGES = 32

logger = logging.getLogger(__name__)


def write(folder: Path, checkpoint: Checkpoint, request: Request) -> dict[str, Any]:
    """Fill `folder`; the manifest."""
    content = manifest.describe(checkpoint, request.precision, request.alpha, request.resize_order)
    images, pixels = _load_images(checkpoint, content, request)
    writer = Writer.of(checkpoint)
    stored = "fp16" if writer.half or request.precision == "fp16" else "fp32"
    logger.info("weights stored in %s, embeddings tied: %s", stored, writer.tied)
    if request.precision == "fp32":
        writer.write(folder, Plan(), content)
    else:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
            content["quantization"] = quantization.write(
                writer, (folder, Path(scratch)), content, pixels, request.min_agreement
            )
    content["verification"] = verify.verify(Bundle(folder), checkpoint, images)
    (folder / MANIFEST).unlink()
    content["files"] = manifest.file_entries(folder)
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return content


def _load_images(
    checkpoint: Checkpoint, content: dict[str, Any], request: Request
) -> tuple[list[PIL.Image.Image], list[np.ndarray]]:
    """The first images, for transformers, and below fp32 the pixels of all."""
    images: list[PIL.Image.Image] = []
    pixels: list[np.ndarray] = []
    size = checkpoint.config.vision_config.image_size
    for image in read_images(request.images, size, request.alpha):
        if len(images) < _VERIFIED_IMAGES:
            images.append(image)
        elif request.precision == "fp32":
            break
        if request.precision != "fp32":
            pixels.append(verify.oracle_pixels(content, checkpoint, image))
    request.check_images(len(pixels))
    return images, pixels
