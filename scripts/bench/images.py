"""Distinct JPEG files."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image

SIZE = (640, 480)


def jpegs(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[bytes]:
    """Make distinct JPEG files: smooth colours with noise, with the file size of photographs."""
    rng = np.random.default_rng(seed)
    return [_jpeg(rng, size) for _ in range(count)]


def _jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    grid = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(grid.resize(size, PIL.Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-12, 13, smooth.shape, np.int16)
    picture = PIL.Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=85)
    return output.getvalue()
