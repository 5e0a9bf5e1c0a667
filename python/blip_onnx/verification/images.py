"""The images a bundle is verified with: those of a folder, or synthetic ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from blip_onnx import ExportError

_SYNTHETIC_IMAGES = 4

logger = logging.getLogger(__name__)


def read_images(folder: Path | None, image_size: int, alpha: str) -> Iterator[PIL.Image.Image]:
    """Yield the readable images of `folder` in the order of their names, or synthetic ones.

    Raises `ExportError` if the folder has no readable image.
    """
    if folder is None:
        yield from (_synthetic(seed, image_size) for seed in range(_SYNTHETIC_IMAGES))
        return
    count = 0
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            image = PIL.Image.open(path)
            image.load()
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            logger.warning("skipped %s: %s", path, error)
            continue
        count += 1
        yield image.convert("RGB") if alpha == "drop" else image
    if not count:
        raise ExportError(f"--images: {folder} has no readable image")


def _synthetic(seed: int, image_size: int) -> PIL.Image.Image:
    """Draw coloured blocks with noise, larger than the model's input."""
    rng = np.random.default_rng(seed)
    height, width = (int(image_size * factor) for factor in rng.uniform(1.1, 1.8, 2))
    blocks = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8)
    image = PIL.Image.fromarray(blocks).resize((width, height), PIL.Image.Resampling.NEAREST)
    noise = rng.integers(0, 40, (height, width, 3))
    return PIL.Image.fromarray((np.asarray(image) * (215 / 255) + noise).astype(np.uint8))
