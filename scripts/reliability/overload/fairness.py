"""Proves that a client that floods the service does not starve another one.

Of two API keys, one sends ten times the capacity of the service, the other one request after the
other. The latter is never refused, and waits a small multiple of its time without the flood.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from reliability.load.clients import BothTransports
from reliability.load.loops import run_closed_loop
from reliability.load.outcome import OK, OVERLOADED, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.subject import split_cores, start_service
from reliability.load.test_requests import SampleRequest
from reliability.overload.workload import Workload, calibrate

MULTIPLE = 8
CAPACITY = 16
_FLOODERS = 4 * CAPACITY
_LEAST = 8
"""Minimum number of requests of the quiet client: each image over each transport."""
_KEYS = ("quiet-0123456789abcdef", "flood-0123456789abcdef")


async def run(seconds: float) -> Report:
    """Measure the quiet client without the flood, then with it."""
    report = Report("one client floods the service, another does not")
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        keys = Path(folder, "keys")
        keys.write_text("\n".join(_KEYS) + "\n", "utf-8")
        cores = split_cores()[0]
        # The requests do not depend on keys, so they are calibrated without them.
        with start_service(cores=cores) as service:
            workload = await calibrate(service, min(seconds / 4, 1))
        flags = ("--api-keys-file", str(keys), "--queue-capacity", str(CAPACITY))
        with start_service(*flags, cores=cores) as service:
            async with (
                BothTransports(service, _KEYS[0]) as quiet,
                BothTransports(service, _KEYS[1]) as flooding,
            ):
                await _compare(report, quiet, flooding, workload, seconds)
    return report


async def _compare(
    report: Report,
    quiet: BothTransports,
    flooding: BothTransports,
    workload: Workload,
    seconds: float,
) -> None:
    requests = workload.requests
    alone = Tally(
        await run_closed_loop(lambda number: quiet.send(requests, number), 1, seconds, _LEAST)
    )
    flood: list[Outcome] = []
    callers = [
        asyncio.create_task(_flood(flooding, requests, flood, first)) for first in range(_FLOODERS)
    ]
    # The flood is complete once the queue is full.
    while not any(outcome.kind == OVERLOADED for outcome in flood):
        await asyncio.sleep(0.01)
    flooded = Tally(
        await run_closed_loop(lambda number: quiet.send(requests, number), 1, seconds, _LEAST)
    )
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    other = flooded.other_than(OK)
    report.check("the quiet client is never refused", not other, examples(other) or flooded)
    seen = Tally(flood)
    other = seen.other_than(OK, OVERLOADED)
    report.check("the flood is answered or refused as overload", not other, examples(other) or seen)
    report.check("the flood is refused more often than answered", _is_flood(seen), seen)
    multiple = _median(flooded) / _median(alone)
    claim = f"the quiet client waits at most {MULTIPLE} times as long as without the flood"
    report.check(claim, multiple <= MULTIPLE, f"{multiple:.1f} times")
    waited = seen.latency(OK, 50) / _median(flooded)
    report.note(flood_waits_over_quiet_waits=f"{waited:.1f}")


async def _flood(
    flooding: BothTransports, requests: Sequence[SampleRequest], outcomes: list[Outcome], first: int
) -> None:
    """Send the next request at once after an answer, and 50 ms after a refusal."""
    number = first
    while True:
        started = time.perf_counter()
        outcome = await flooding.send(requests, number)
        outcomes.append(outcome)
        number += _FLOODERS + 1
        if outcome.kind != OK:
            await asyncio.sleep(max(0.0, 0.05 - (time.perf_counter() - started)))


def _is_flood(tally: Tally) -> bool:
    return tally.kinds[OVERLOADED] > tally.kinds[OK]


def _median(tally: Tally) -> float:
    return median(outcome.seconds for outcome in tally.of_kind(OK))
