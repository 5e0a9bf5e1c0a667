"""The settings of a run of the benchmark, and the result of a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import models
from bench.measure import Spread

NEW_TOKENS = 20
FORCED = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
"""A fixed length, so that all subjects do the same work: captions of random weights vary in length."""


@dataclass(frozen=True)
class Settings:
    """The command line."""

    binary: Path
    work: Path
    quick: bool = False
    rounds: int = 5
    # Set by tests instead of `models.random_model`.
    given_model: models.Model | None = None

    @cached_property
    def model(self) -> models.Model:
        """Return the random model: with BLIP-large's shape, or a tiny one when quick."""
        kind = "tiny" if self.quick else "large"
        return self.given_model or models.random_model(kind, self.work)

    @property
    def requests(self) -> int:
        """Return the number of concurrent requests, which is also the rows of a full step."""
        return 4 if self.quick else 16

    def pick(self, count: int, quick: int = 2) -> int:
        """Return `count`, or `quick` in a quick run."""
        return quick if self.quick else count


@dataclass
class Result:
    """The result of one part."""

    # Figures by name; those of `figures.GOALS` have a goal.
    figures: dict[str, Spread] = field(default_factory=dict)
    # Seconds, counters and other values that explain the figures.
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, values: Sequence[float]) -> None:
        """Add a figure from its values of all rounds."""
        self.figures[name] = Spread.from_values(values)

    def add_seconds(self, seen: dict[str, list[float]]) -> None:
        """Add the times that the ratios are computed from."""
        times = self.details.setdefault("seconds", {})
        times |= {name: Spread.from_values(values).json() for name, values in seen.items()}
