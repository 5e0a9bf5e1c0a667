"""The growth of resident memory: the median after the warm-up against the median at the end."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

WARM_UP = 1 / 6
"""Share of the whole time: minute 10 of 60."""
_WINDOW = 1 / 12


def growth(samples: Sequence[tuple[float, int]]) -> float:
    """Return the relative growth from the twelfth after the warm-up to the last twelfth."""
    start, end = samples[0][0], samples[-1][0]
    whole = end - start
    after = _between(samples, start + WARM_UP * whole, start + (WARM_UP + _WINDOW) * whole)
    last = _between(samples, end - _WINDOW * whole, end)
    return last / after - 1


def _between(samples: Sequence[tuple[float, int]], start: float, end: float) -> float:
    return median(size for at, size in samples if start <= at <= end)
