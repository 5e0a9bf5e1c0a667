"""int8 linear layers: the layout of their weights in ONNX Runtime's kernels, and their error.

Activations are quantised by the kernels at run time. The functions `fake_quantize_*` quantise and
dequantise in numpy with the kernels' rounding, to measure the error of one layer.
"""

from __future__ import annotations

import numpy as np

# Values that share a scale. At 32, ONNX Runtime's 8-bit kernel computes the same bits for a row
# whatever the number of rows; at 128 it does not.
BLOCK = 32
# The unsigned 8-bit value of a zero weight. It is the kernel's default, so it is never written.
_ZERO_POINT = 128


def quantize_per_column(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric int8 of `[in, out]` and the scale of each column."""
    scale = _scale(np.abs(matrix).max(axis=0), 127)  # [out]
    return _round_to_steps(matrix, scale).astype(np.int8), scale


def quantize_in_blocks(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric uint8 `[rows, blocks, 32]` of `[rows, inner]`, and scales `[rows, blocks]`."""
    blocks = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK)))
    blocks = blocks.reshape(len(matrix), -1, BLOCK)
    scale = _scale(np.abs(blocks).max(axis=-1), 127)
    return (_round_to_steps(blocks, scale[..., None]) + _ZERO_POINT).astype(np.uint8), scale


def fake_quantize_per_tensor(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Round activations to 256 steps between `low` or 0 and `high` or 0, as the kernel does."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale(np.float32(high - low), 255)
    zero = _round_to_steps(np.float32(-low), scale)
    return (np.clip(_round_to_steps(x, scale) + zero, 0, 255) - zero) * scale


def fake_quantize_per_column(matrix: np.ndarray) -> np.ndarray:
    """Round weights `[in, out]` as `quantize_per_column` does."""
    values, scale = quantize_per_column(matrix)
    return values * scale


def fake_quantize_in_blocks(matrix: np.ndarray) -> np.ndarray:
    """Round activations `[rows, in]` or weights `[out, in]` as `quantize_in_blocks` does."""
    values, scale = quantize_in_blocks(matrix)
    rounded = (values.astype(np.float32) - _ZERO_POINT) * scale[..., None]  # [rows, blocks, 32]
    return rounded.reshape(len(matrix), -1)[:, : matrix.shape[1]]


def _scale(largest: np.ndarray, steps: int) -> np.ndarray:
    """Return the fp32 width of one of `steps` steps up to `largest`; 0 if all values are 0."""
    return np.asarray(largest, np.float32) / np.float32(steps)


def _round_to_steps(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Divide by `scale` and round to even, as the kernels do."""
    return np.rint(values / np.where(scale == 0, np.float32(1), scale))
