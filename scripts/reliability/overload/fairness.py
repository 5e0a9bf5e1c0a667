"""Proves that one client that floods does not take the service from another.

Two API keys: one sends ten times what can be carried, the other one request at a time. That one is
never refused, and waits a small multiple of what it waits alone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from reliability.load.clients import Both
from reliability.load.loops import closed
from reliability.load.outcome import OK, OVERLOADED, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.subject import serving, split_cores
from reliability.load.test_requests import Question
from reliability.overload.workload import Workload, calibrated

MULTIPLE = 8
CAPACITY = 16
_FLOODERS = 4 * CAPACITY
_LEAST = 8
"""Questions of the quiet client, however long they take: each picture over each transport."""
_KEYS = ("quiet-0123456789abcdef", "flood-0123456789abcdef")


async def run(seconds: float) -> Report:
    """The quiet client alone, then beside the flood."""
    report = Report("one client floods, another does not")
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        keys = Path(folder, "keys")
        keys.write_text("\n".join(_KEYS) + "\n", "utf-8")
        mine = split_cores()[0]
        # Calibrated without keys: the questions are the same.
        with serving(cores=mine) as service:
            workload = await calibrated(service, min(seconds / 4, 1))
        flags = ("--api-keys-file", str(keys), "--queue-capacity", str(CAPACITY))
        with serving(*flags, cores=mine) as service:
            async with Both(service, _KEYS[0]) as quiet, Both(service, _KEYS[1]) as flooding:
                await _compare(report, (quiet, flooding), workload, seconds)
    return report


async def _compare(
    report: Report, clients: tuple[Both, Both], workload: Workload, seconds: float
) -> None:
    quiet, flooding = clients
    questions = workload.questions
    alone = Tally(await closed(lambda number: quiet.ask(questions, number), 1, seconds, _LEAST))
    flood: list[Outcome] = []
    callers = [
        asyncio.create_task(_flood(flooding, questions, flood, first)) for first in range(_FLOODERS)
    ]
    # Only a house that is full is a flood.
    while not any(outcome.kind == OVERLOADED for outcome in flood):
        await asyncio.sleep(0.01)
    beside = Tally(await closed(lambda number: quiet.ask(questions, number), 1, seconds, _LEAST))
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    other = beside.beside(OK)
    report.check("the quiet client is never refused", not other, examples(other) or beside)
    seen = Tally(flood)
    other = seen.beside(OK, OVERLOADED)
    report.check("the flood is answered or refused as overload", not other, examples(other) or seen)
    report.check("the flood is refused more often than answered", _is_flood(seen), seen)
    multiple = _median(beside) / _median(alone)
    claim = f"the quiet client waits at most {MULTIPLE} times as long as alone"
    report.check(claim, multiple <= MULTIPLE, f"{multiple:.1f} times")
    waited = seen.latency(OK, 50) / _median(beside)
    report.note(flood_waits_over_quiet_waits=f"{waited:.1f}")


async def _flood(
    flooding: Both, questions: Sequence[Question], outcomes: list[Outcome], first: int
) -> None:
    """Asks again at once when answered, and a moment after a refusal."""
    number = first
    while True:
        started = time.perf_counter()
        outcome = await flooding.ask(questions, number)
        outcomes.append(outcome)
        number += _FLOODERS + 1
        if outcome.kind != OK:
            await asyncio.sleep(max(0.0, 0.05 - (time.perf_counter() - started)))


def _is_flood(tally: Tally) -> bool:
    return tally.kinds[OVERLOADED] > tally.kinds[OK]


def _median(tally: Tally) -> float:
    return median(outcome.seconds for outcome in tally.of(OK))
