"""Proves that ten times the load that can be carried costs nobody an answer who would have had one.

Right answers per second stay at what a closed loop reaches; everyone else is refused at once, with
the time to come back, and nothing is kept for those who are refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from reliability.load.clients import Both
from reliability.load.loops import at_rate
from reliability.load.outcome import OK, OVERLOADED, Tally, examples
from reliability.load.report import Report
from reliability.load.resident import MIB, Sampled, resident
from reliability.load.subject import serving, split_cores
from reliability.load.test_requests import Question
from reliability.overload.workload import calibrated, goodput
from service import Service

TIMES = 10
CAPACITY = 32
INFLIGHT = 16 * MIB
CONSTANT = 96 * MIB
"""What the service may take beside the bytes of bodies: rows, pixels, connections, the allocator's slack."""
_SOONER = 5
"""The slowest refusals must come so many times sooner than a usual answer."""


async def run(seconds: float, rounds: int, least: float) -> Report:
    """Peak and overload take turns; `least` is the share of the peak that must be kept."""
    report = Report(f"{TIMES} times the load that can be carried")
    flags = ("--queue-capacity", str(CAPACITY), "--max-inflight-bytes", str(INFLIGHT))
    with serving(*flags, cores=split_cores()[0]) as service:
        workload = await calibrated(service, min(seconds / 4, 2))
        report.note(beams=workload.beams)
        async with Both(service) as clients:
            shares, flood = [], Tally()
            resting = resident(service.process.pid)
            peaks: list[int] = []
            for _ in range(rounds):
                peak = await goodput(clients, workload.questions, seconds)
                seen, kept, most = await _flooded(
                    service, clients, workload.questions, (peak, seconds)
                )
                shares.append(kept / peak)
                peaks.append(most)
                flood = Tally([*flood.outcomes, *seen.outcomes])
            report.note(peak_per_second=round(peak, 1), offered_per_second=round(peak * TIMES, 1))
    _judge(report, flood, shares, least)
    allowed = resting + INFLIGHT + CONSTANT
    seen = f"{max(peaks) / MIB:.0f} MiB of {allowed / MIB:.0f} allowed, {resting / MIB:.0f} at rest"
    report.check("resident memory is bounded", max(peaks) <= allowed, seen)
    return report


async def _flooded(
    service: Service, clients: Both, questions: Sequence[Question], load: tuple[float, float]
) -> tuple[Tally, float, int]:
    """Outcomes under the flood, right answers per second in it, and the most memory."""
    peak, seconds = load
    async with Sampled(service.process.pid) as memory:
        start = time.perf_counter()
        rate = peak * TIMES
        outcomes = await at_rate(lambda number: clients.ask(questions, number), rate, seconds)
    tally = Tally(outcomes)
    # The house fills first; what is answered after the last request was offered does not count.
    kept = tally.rate(OK, start + seconds / 5, start + seconds)
    return tally, kept, memory.peak


def _judge(report: Report, flood: Tally, shares: Sequence[float], least: float) -> None:
    share = median(shares)
    seen = ", ".join(f"{each:.2f}" for each in shares)
    report.check(f"right answers per second stay at {least:.0%} of the peak", share >= least, seen)
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
