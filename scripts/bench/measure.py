"""Interleaved repetitions and their statistics.

The speed of a machine drifts, so subjects take turns (A B C A B C ...) and ratios are computed
within a round. A figure is the median of the ratios of all rounds, with their quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The statistics of a figure over several rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Spread:
        """Compute median and quartiles, or the whole range for fewer than four values."""
        low, high = min(values), max(values)
        if len(values) >= 4:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high, len(values))

    def json(self) -> dict[str, Any]:
        """Return the values for the result file."""
        return asdict(self)


def measure_seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(subjects: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run all subjects in turn for rounds 0, 1, ... and return their results.

    Round -1 is the warm-up, whose results are dropped.
    """
    seen: dict[str, list[Any]] = {name: [] for name in subjects}
    for index in range(-1, rounds):
        for name, subject in subjects.items():
            value = subject(index)
            if index >= 0:
                seen[name].append(value)
    return seen


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return `over / under` for each round."""
    return [a / b for a, b in zip(over, under, strict=True)]
