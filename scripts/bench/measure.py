"""Interleaved repetitions, and what is said about them.

A machine's speed drifts, so subjects take turns (A B C A B C ...) and only ratios of one round are
compared. The figure is the median of the rounds' ratios, its spread their quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A figure seen in several rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and quartiles; all of the range where there are fewer than four values."""
        low, high = min(values), max(values)
        if len(values) >= 4:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high, len(values))

    def json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(subjects: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each subject returns for rounds 0, 1, ..., taking turns.

    Round -1 comes first and warms up; what it returns is dropped.
    """
    seen: dict[str, list[Any]] = {name: [] for name in subjects}
    for index in range(-1, rounds):
        for name, subject in subjects.items():
            value = subject(index)
            if index >= 0:
                seen[name].append(value)
    return seen


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round, `over / under`."""
    return [a / b for a, b in zip(over, under, strict=True)]
