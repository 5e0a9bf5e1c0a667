"""The pictures a bundle is verified with: a folder's, or synthetic ones.

Nothing here knows the model beyond the side of its square.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import PIL.Image

from blip_onnx import ExportError

_SYNTHETIC_IMAGES = 4
_MAX_IMAGES = 32

logger = logging.getLogger(__name__)


def load_images(folder: Path | None, image_size: int, alpha: str) -> list[PIL.Image.Image]:
    """The first readable images of `folder` in name order, or synthetic ones."""
    if folder is None:
        return [_synthetic(seed, image_size) for seed in range(_SYNTHETIC_IMAGES)]
    images: list[PIL.Image.Image] = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if len(images) == _MAX_IMAGES:
            break
        try:
            image = PIL.Image.open(path)
            image.load()
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            logger.warning("skipped %s: %s", path, error)
            continue
        images.append(image.convert("RGB") if alpha == "drop" else image)
    if not images:
        raise ExportError(f"--images {folder} holds no readable image")
    return images


def _synthetic(seed: int, image_size: int) -> PIL.Image.Image:
    """Coloured blocks under noise, never of the model's own size."""
    rng = np.random.default_rng(seed)
    height, width = (int(image_size * factor) for factor in rng.uniform(1.1, 1.8, 2))
    blocks = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8)
    image = PIL.Image.fromarray(blocks).resize((width, height), PIL.Image.Resampling.NEAREST)
    noise = rng.integers(0, 40, (height, width, 3))
    return PIL.Image.fromarray((np.asarray(image) * (215 / 255) + noise).astype(np.uint8))
