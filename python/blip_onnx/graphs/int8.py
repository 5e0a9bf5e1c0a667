"""int8 linear layers: the weights' layout as ONNX Runtime's kernels want it, and their error.

Activations are quantised by the kernels at run time; the functions `seen_*` do the same in numpy,
to say what one layer's quantisation costs.
"""

from __future__ import annotations

import numpy as np

# Values that share a scale. ONNX Runtime's 8-bit kernel gives a row the same bits alone and in
# company at 32, not at 128.
BLOCK = 32
# What an unsigned 8-bit weight of zero is stored as; the kernel's default, so never written out.
_ZERO_POINT = 128


def per_column(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 of `[in, out]` and the scale of each column."""
    scale = _scale(np.abs(matrix).max(axis=0), 127)
    return _steps(matrix, scale).astype(np.int8), scale


def in_blocks(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric uint8 `[rows, blocks, 32]` of `[rows, inner]`, and scales `[rows, blocks]`."""
    blocks = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK)))
    blocks = blocks.reshape(len(matrix), -1, BLOCK)
    scale = _scale(np.abs(blocks).max(axis=-1), 127)
    return (_steps(blocks, scale[..., None]) + _ZERO_POINT).astype(np.uint8), scale


def seen_per_tensor(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Activations as the kernel sees them: 256 steps between the least and the largest, or 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale(np.float32(high - low), 255)
    zero = _steps(np.float32(-low), scale)
    return (np.clip(_steps(x, scale) + zero, 0, 255) - zero) * scale


def seen_per_column(matrix: np.ndarray) -> np.ndarray:
    """Weights `[in, out]` as the kernel sees them behind `per_column`."""
    values, scale = per_column(matrix)
    return values * scale


def seen_in_blocks(matrix: np.ndarray) -> np.ndarray:
    """Activations `[rows, in]` or weights `[out, in]` as the kernel sees them in blocks."""
    values, scale = in_blocks(matrix)
    seen = (values.astype(np.float32) - _ZERO_POINT) * scale[..., None]
    return seen.reshape(len(matrix), -1)[:, : matrix.shape[1]]


def _scale(largest: np.ndarray, steps: int) -> np.ndarray:
    """fp32 width of one of `steps` steps up to `largest`; 0 for nothing but zeros."""
    return np.asarray(largest, np.float32) / np.float32(steps)


def _steps(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """How many steps of `scale` make each value, rounded to even as the kernels do."""
    return np.rint(values / np.where(scale == 0, np.float32(1), scale))
