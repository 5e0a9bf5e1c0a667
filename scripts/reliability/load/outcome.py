"""What one request came to, and what many came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import quantiles

OK = "ok"
WRONG = "wrong"
"""An answer that is not the one that is right: must never be."""
OVERLOADED = "overloaded"
LATE = "late"
UNAVAILABLE = "unavailable"
REFUSED = "refused"
"""The request is at fault."""
FAILED = "failed"
"""The server is at fault."""
LOST = "lost"
"""No answer: no connection, or one that ended."""

_STATUSES = {"200": OK, "429": OVERLOADED, "503": UNAVAILABLE, "504": LATE}
_CODES = {
    "OK": OK,
    "RESOURCE_EXHAUSTED": OVERLOADED,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": LATE,
    "INTERNAL": FAILED,
    "UNKNOWN": FAILED,
    "DATA_LOSS": FAILED,
    "UNIMPLEMENTED": FAILED,
}


def kind_of(code: str) -> str:
    """The kind of an HTTP status or of the name of a gRPC code."""
    if code.isdigit():
        return _STATUSES.get(code, REFUSED if code.startswith("4") else FAILED)
    return _CODES.get(code, REFUSED)


@dataclass(frozen=True)
class Outcome:
    """What one request came to; times by `time.perf_counter`."""

    kind: str
    code: str
    """HTTP status or name of the gRPC code; what broke, if nothing came."""
    sent: float
    ended: float
    text: str = ""
    """The caption, or the error."""
    has_retry_advice: bool = False
    """Retry-After, or RetryInfo."""

    @property
    def seconds(self) -> float:
        """From sending to the last byte."""
        return self.ended - self.sent


class Tally:
    """Outcomes, counted."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self.outcomes = list(outcomes)
        self.kinds = Counter(outcome.kind for outcome in self.outcomes)

    def of(self, *kinds: str) -> list[Outcome]:
        """Those of these kinds."""
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]

    def beside(self, *kinds: str) -> list[Outcome]:
        """Those of any other kind."""
        return [outcome for outcome in self.outcomes if outcome.kind not in kinds]

    def latency(self, kind: str, percent: int) -> float:
        """A percentile of the seconds that outcomes of a kind took; 0 without any."""
        seconds = [outcome.seconds for outcome in self.of(kind)]
        if len(seconds) < 2:
            return sum(seconds)
        return quantiles(seconds, n=100, method="inclusive")[percent - 1]

    def rate(self, kind: str, start: float, end: float) -> float:
        """How many of a kind ended per second between two times."""
        return sum(start <= outcome.ended < end for outcome in self.of(kind)) / (end - start)

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common()) or "none"


def examples(outcomes: Iterable[Outcome], most: int = 3) -> str:
    """Some outcomes in words, for a report of what should not be."""
    return "; ".join(f"{each.kind} {each.code} {each.text[:120]}" for each in list(outcomes)[:most])
