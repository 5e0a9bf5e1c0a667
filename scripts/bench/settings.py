"""What a run of the benchmark is asked for, and what a part of it answers."""

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
"""Random weights end their captions anywhere: the length is forced, so that all do the same work."""


@dataclass(frozen=True)
class Settings:
    """The command line."""

    binary: Path
    work: Path
    quick: bool = False
    rounds: int = 5
    # Given by tests, which have made their own.
    made: models.Model | None = None

    @cached_property
    def model(self) -> models.Model:
        """The random model: BLIP-large's shape, or a tiny one when quick."""
        return self.made or models.random_model("tiny" if self.quick else "large", self.work)

    @property
    def requests(self) -> int:
        """How many requests come at once where company is measured; also rows of a full step."""
        return 4 if self.quick else 16

    def few(self, count: int, quick: int = 2) -> int:
        """`count`, or `quick` of them."""
        return quick if self.quick else count


@dataclass
class Result:
    """What one part has seen."""

    # By the names of `figures.GOALS`, and others without a goal.
    figures: dict[str, Spread] = field(default_factory=dict)
    # Seconds, counters and whatever explains the figures.
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, values: Sequence[float]) -> None:
        """A figure from its values round by round."""
        self.figures[name] = Spread.of(values)

    def add_seconds(self, seen: dict[str, list[float]]) -> None:
        """The raw times behind the ratios."""
        times = self.details.setdefault("seconds", {})
        times |= {name: Spread.of(values).json() for name, values in seen.items()}
