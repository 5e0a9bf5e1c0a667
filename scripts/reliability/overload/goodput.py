"""Proves that ten times the load that can be carried costs nobody an answer who would have had one.

Right answers stay at what a closed loop reaches; everyone else is refused at once, with the time to
come back, and nothing is kept for those who are refused.

Two numbers say that answers stay. The CPU time of the service per right answer is what overload
would raise: refusals that are not cheap, work for requests that get no answer. Other programs on the
machine do not move it. Right answers per second also fall when the service waits instead of working,
but share the machine: they are compared with the closed loops before and after the flood, and where
other programs run, only a collapse is told from their noise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from reliability.load.clients import Both
from reliability.load.cpu import cpu_seconds
from reliability.load.loops import at_rate
from reliability.load.outcome import OK, OVERLOADED, Tally, examples
from reliability.load.report import Report
from reliability.load.resident import MIB, Sampled, resident
from reliability.load.subject import serving, split_cores
from reliability.load.test_requests import Question
from reliability.overload.workload import calibrated, carried
from service import Service

TIMES = 10
CAPACITY = 32
INFLIGHT = 16 * MIB
CONSTANT = 96 * MIB
"""What the service may take beside the bytes of bodies: rows, pixels, connections, the allocator's slack."""
_SOONER = 5
"""The slowest refusals must come so many times sooner than a usual answer."""


@dataclass(frozen=True)
class Strictness:
    """How much is measured, and how much of the peak must be kept."""

    rounds: int
    """Floods, each between two closed loops."""
    cpu_share: float
    """Of right answers per second of the service's CPU time."""
    rate_share: float
    """Of right answers per second."""


@dataclass(frozen=True)
class Phase:
    """What one load brought."""

    per_second: float
    """Right answers per second."""
    per_cpu_second: float
    """Right answers per second of the service's CPU time."""


async def run(seconds: float, strictness: Strictness) -> Report:
    """Peak and overload take turns."""
    report = Report(f"{TIMES} times the load that can be carried")
    flags = ("--queue-capacity", str(CAPACITY), "--max-inflight-bytes", str(INFLIGHT))
    with serving(*flags, cores=split_cores()[0]) as service:
        workload = await calibrated(service, min(seconds / 4, 2))
        report.note(beams=workload.beams)
        async with Both(service) as clients:
            flooded: list[Phase] = []
            flood = Tally()
            resting = resident(service.process.pid)
            memory: list[int] = []
            peaks = [await _peak(service, clients, workload.questions, seconds)]
            for _ in range(strictness.rounds):
                load = (peaks[-1].per_second, seconds)
                seen, phase, most = await _flooded(service, clients, workload.questions, load)
                flooded.append(phase)
                memory.append(most)
                flood = Tally([*flood.outcomes, *seen.outcomes])
                peaks.append(await _peak(service, clients, workload.questions, seconds))
            peak = peaks[-1].per_second
            report.note(peak_per_second=round(peak, 1), offered_per_second=round(peak * TIMES, 1))
    _judge_shares(report, peaks, flooded, strictness)
    _judge_refusals(report, flood)
    allowed = resting + INFLIGHT + CONSTANT
    seen = (
        f"{max(memory) / MIB:.0f} MiB of {allowed / MIB:.0f} allowed, {resting / MIB:.0f} at rest"
    )
    report.check("resident memory is bounded", max(memory) <= allowed, seen)
    return report


async def _peak(
    service: Service, clients: Both, questions: Sequence[Question], seconds: float
) -> Phase:
    cpu = cpu_seconds(service.process.pid)
    load = await carried(clients, questions, seconds)
    cpu = cpu_seconds(service.process.pid) - cpu
    return Phase(load.per_second, load.answers / cpu)


async def _flooded(
    service: Service, clients: Both, questions: Sequence[Question], load: tuple[float, float]
) -> tuple[Tally, Phase, int]:
    """Outcomes under the flood, right answers in it, and the most memory."""
    peak, seconds = load
    async with Sampled(service.process.pid) as memory:
        cpu = cpu_seconds(service.process.pid)
        start = time.perf_counter()
        rate = peak * TIMES
        outcomes = await at_rate(lambda number: clients.ask(questions, number), rate, seconds)
        cpu = cpu_seconds(service.process.pid) - cpu
    tally = Tally(outcomes)
    # The queue fills first; what is answered after the last request was offered does not count.
    kept = tally.rate(OK, start + seconds / 5, start + seconds)
    return tally, Phase(kept, tally.kinds[OK] / cpu), memory.peak


def _judge_shares(
    report: Report, peaks: Sequence[Phase], flooded: Sequence[Phase], strictness: Strictness
) -> None:
    for unit, number, least in [
        ("CPU second", lambda phase: phase.per_cpu_second, strictness.cpu_share),
        ("second", lambda phase: phase.per_second, strictness.rate_share),
    ]:
        # A machine that gets busier or idler meanwhile moves both neighbours.
        around = [mean(map(number, pair)) for pair in pairwise(peaks)]
        shares = [number(phase) / peak for phase, peak in zip(flooded, around, strict=True)]
        seen = ", ".join(f"{each:.2f}" for each in shares)
        claim = f"right answers per {unit} stay at {least:.0%} of the peak"
        report.check(claim, median(shares) >= least, seen)


def _judge_refusals(report: Report, flood: Tally) -> None:
    other = flood.beside(OK, OVERLOADED)
    report.check("every other request is refused as overload", not other, examples(other) or flood)
    refused = flood.of(OVERLOADED)
    both = {outcome.code for outcome in refused} == {"429", "RESOURCE_EXHAUSTED"}
    report.check("over REST with 429, over gRPC with RESOURCE_EXHAUSTED", both)
    told = sum(outcome.has_retry_advice for outcome in refused)
    report.check(
        "every refusal says when to come back", told == len(refused), f"{told} of {len(refused)}"
    )
    slowest, usual = flood.latency(OVERLOADED, 99), flood.latency(OK, 50)
    report.check(
        f"refusals come at least {_SOONER} times sooner than answers (99 % against half)",
        slowest * _SOONER <= usual,
        f"median {usual / max(flood.latency(OVERLOADED, 50), 1e-9):.0f} times, 99 % {usual / max(slowest, 1e-9):.0f} times",
    )
