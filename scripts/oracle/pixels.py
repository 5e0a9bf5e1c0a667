"""The oracle's pixels of an image file.

The oracle is `PIL.Image.open(BytesIO(bytes))` followed by the Pillow backend of transformers' BLIP
image processor.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers.image_transforms import convert_to_rgb
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

REFUSALS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
)
"""The errors that Pillow raises for bytes it cannot decode; other errors are not caught."""


@dataclass(frozen=True)
class Refusal:
    """The reason why Pillow does not decode a file."""

    reason: str


def open_image(data: bytes) -> Image.Image | Refusal:
    """Open an image and load its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data))
            image.load()
    except REFUSALS as error:
        return Refusal(f"{type(error).__name__}: {error}")
    return image


def oracle_rgb(data: bytes) -> np.ndarray | Refusal:
    """Return the decoded RGB, uint8 `[height, width, 3]`."""
    image = open_image(data)
    return image if isinstance(image, Refusal) else convert_to_rgb(image, return_numpy=True)


def oracle_pixels(path: Path, processor: BlipImageProcessorPil) -> np.ndarray | Refusal:
    """Return `pixel_values`, float32 `[1, 3, height, width]`, or the refusal."""
    image = open_image(path.read_bytes())
    if isinstance(image, Refusal):
        return image
    return processor(images=image, return_tensors="np")["pixel_values"].astype(np.float32)
