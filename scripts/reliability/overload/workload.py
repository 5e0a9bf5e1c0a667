"""A model of 10 to 50 requests per second: the embedded one, asked for so many tokens and beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reliability.load.clients import Both
from reliability.load.loops import closed
from reliability.load.outcome import OK, Tally
from reliability.load.test_requests import PICTURES, Question, learn
from service import Service

TOKENS = (75, 90, 105, 120)
"""Of each picture another number: images that begin together do not end together."""
_BEAMS = (1, 2, 3, 4, 6, 8, 12, 16)
_MOST_PER_SECOND = 40
"""Below 50, so that a faster moment stays below it, too."""
AT_ONCE = 16


@dataclass(frozen=True)
class Workload:
    """Questions that are hard enough."""

    questions: Sequence[Question]
    beams: int


async def calibrated(service: Service, seconds: float) -> Workload:
    """The fewest beams with which the service answers at most 40 requests per second."""
    for beams in _BEAMS:
        questions = []
        for name, tokens in zip(PICTURES, TOKENS, strict=True):
            parameters = {"num_beams": beams, "min_new_tokens": tokens, "max_new_tokens": tokens}
            questions += learn(service, parameters=parameters, names=[name])
        workload = Workload(questions, beams)
        async with Both(service) as clients:
            load = await carried(clients, workload.questions, seconds)
            if load.per_second <= _MOST_PER_SECOND:
                break
    return workload


@dataclass(frozen=True)
class Carried:
    """What a closed loop brought."""

    answers: int
    per_second: float
    """Without its start and its end."""


async def carried(clients: Both, questions: Sequence[Question], seconds: float) -> Carried:
    """Right answers of a closed loop that keeps the service busy."""
    outcomes = await closed(lambda number: clients.ask(questions, number), AT_ONCE, seconds)
    tally = Tally(outcomes)
    if other := tally.beside(OK):
        raise RuntimeError(f"a load that should be carried is not: {other[0]}")
    start = min(outcome.sent for outcome in outcomes)
    # The first answers met an idle service, the last ones one that becomes idle.
    skipped = seconds / 5
    return Carried(len(outcomes), tally.rate(OK, start + skipped, start + seconds))
