"""The figures that have a goal, in the order of the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.measure import Spread
from bench.models import PRECISIONS


@dataclass(frozen=True)
class Goal:
    """The limit for a figure's median, and a stretch goal."""

    limit: float
    stretch: float | None = None
    at_least: bool = True

    def is_reached(self, seen: Spread) -> bool:
        """Whether the median is on the right side of the limit."""
        return seen.median >= self.limit if self.at_least else seen.median <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}" + (f" ({self.stretch:g})" if self.stretch else "")


def _at_most(limit: float, stretch: float | None = None) -> Goal:
    return Goal(limit, stretch, at_least=False)


def _each(name: str, goals: Iterable[Goal]) -> dict[str, Goal]:
    """Return one figure with a goal for each precision."""
    return {f"{name}, {key}": goal for key, goal in zip(PRECISIONS, goals, strict=True)}


GOALS = {
    "int8 against transformers fp32": Goal(3.3, 4),
    "int8 against transformers bf16": Goal(2.1, 2.5),
    "fp32 against transformers fp32": Goal(1.15, 1.3),
    **_each("encoder floor / encoder", (Goal(0.85, 0.92), Goal(0.80, 0.90))),
    **_each("3 beams / greedy", [_at_most(1.15, 1.05)] * 2),
    **_each("3-beam step / greedy step", [_at_most(1.5, 1.2)] * 2),
    **_each("16-row step / 16 one-row steps", [_at_most(0.40, 0.3)] * 2),
    "16 at once / 16 in a row": _at_most(0.90),
    "mean latency / first come first served": _at_most(1.05),
    **_each("outside Run", [_at_most(0.02, 0.01)] * 2),
    "jpeg_640x480 against Pillow + transformers": Goal(3),
    "resize_normalise_640x480 against Pillow + transformers": Goal(6),
    "requests/s against the Python server, default": Goal(10),
    "requests/s against the Python server, best": Goal(4),
    "peak memory / allowed": _at_most(1),
    "first answer / repeated": Goal(100),
}
