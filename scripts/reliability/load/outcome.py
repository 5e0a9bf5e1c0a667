"""The outcome of a request, and counts of many outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import quantiles

OK = "ok"
WRONG = "wrong"
"""A caption that is not the expected one; it must never occur."""
OVERLOADED = "overloaded"
LATE = "late"
UNAVAILABLE = "unavailable"
REFUSED = "refused"
"""A client error."""
FAILED = "failed"
"""A server error."""
LOST = "lost"
"""No response: the connection failed or was closed."""

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
    """Return the kind of an HTTP status or of the name of a gRPC code."""
    if code.isdigit():
        return _STATUSES.get(code, REFUSED if code.startswith("4") else FAILED)
    return _CODES.get(code, REFUSED)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request; times are those of `time.perf_counter`, in seconds."""

    kind: str
    code: str
    """HTTP status or name of the gRPC code; without a response, the name of the error."""
    sent: float
    ended: float
    text: str = ""
    """The caption, or the error."""
    has_retry_advice: bool = False
    """Whether the response has Retry-After or RetryInfo."""

    @property
    def seconds(self) -> float:
        """Return the time from sending to the last byte."""
        return self.ended - self.sent


class Tally:
    """Counts outcomes by kind."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self.outcomes = list(outcomes)
        self.kinds = Counter(outcome.kind for outcome in self.outcomes)

    def of_kind(self, *kinds: str) -> list[Outcome]:
        """Return the outcomes of these kinds."""
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]

    def other_than(self, *kinds: str) -> list[Outcome]:
        """Return the outcomes of all other kinds."""
        return [outcome for outcome in self.outcomes if outcome.kind not in kinds]

    def latency(self, kind: str, percent: int) -> float:
        """Return a percentile of the seconds of one kind; 0 if there are none."""
        seconds = [outcome.seconds for outcome in self.of_kind(kind)]
        if len(seconds) < 2:
            return sum(seconds)
        return quantiles(seconds, n=100, method="inclusive")[percent - 1]

    def rate(self, kind: str, start: float, end: float) -> float:
        """Return the outcomes of one kind per second that ended between two times."""
        return sum(start <= outcome.ended < end for outcome in self.of_kind(kind)) / (end - start)

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common()) or "none"


def examples(outcomes: Iterable[Outcome], most: int = 3) -> str:
    """Describe the first outcomes, for a report of unexpected ones."""
    return "; ".join(f"{each.kind} {each.code} {each.text[:120]}" for each in list(outcomes)[:most])
