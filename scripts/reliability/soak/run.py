"""Sends a mix of all kinds of requests at a share of the service's capacity, and checks outcomes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from reliability.load.clients import GrpcClient, RestClient
from reliability.load.loops import run_closed_loop, run_paced
from reliability.load.metrics import IN_FLIGHT, metric, wait_until
from reliability.load.outcome import Outcome
from reliability.load.report import Report
from reliability.load.resident import MIB, MemorySampler
from reliability.load.test_requests import prepare_requests
from reliability.soak import bad, good, leaving
from reliability.soak.memory import growth
from reliability.soak.tools import PROMPT, Picture, RequestKind, Tools, image_server
from service import Service

logger = logging.getLogger("soak")

PICTURES = ("cats.jpg", "umbrella-guitar.jpg", "flower.gif", "rocket-guitar.webp")
SHARE = 0.8
MOST_GROWTH = 0.02
BROKEN = "broken"
"""The kind of an outcome whose response the client could not read."""
_CONCURRENCY = 16
_MEASURED_SECONDS = 5.0
_EXAMPLES = 20
_LOG_SECONDS = 60

ALL = [*good.KINDS, *bad.KINDS, *leaving.KINDS]


@dataclass
class Counts:
    """Counts by kind of request, and examples of unexpected outcomes."""

    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, kind: RequestKind, outcome: Outcome) -> None:
        """Count an outcome."""
        self.kinds[kind.name][outcome.kind] += 1
        if outcome.kind not in kind.allowed:
            self.unexpected += 1
            if len(self.examples) < _EXAMPLES:
                text = f"{kind.name}: {outcome.kind} {outcome.code}: {outcome.text[:300]}"
                self.examples.append(text)

    @property
    def total(self) -> int:
        """Return the number of all requests."""
        return sum(sum(counts.values()) for counts in self.kinds.values())


@dataclass
class Mix:
    """Sends kinds of requests in random order, by their weights."""

    tools: Tools
    pictures: list[Picture]
    kinds: list[RequestKind]

    async def send(self, counts: Counts) -> None:
        """Send one request of any kind."""
        chance = self.tools.random
        (kind,) = chance.choices(self.kinds, [kind.weight for kind in self.kinds])
        await self.send_one(kind, counts)

    async def send_one(self, kind: RequestKind, counts: Counts) -> None:
        """Send one request of this kind."""
        picture = self.tools.random.choice(self.pictures)
        try:
            outcome = await kind.send(self.tools, picture)
        except Exception as error:
            # A response that a client cannot read is unexpected.
            now = time.perf_counter()
            outcome = Outcome(BROKEN, type(error).__name__, now, now, str(error))
        counts.add(kind, outcome)


async def soak(
    service: Service,
    seconds: float,
    seed: int,
    kinds: Iterable[RequestKind] = ALL,
    bound: bool = True,
) -> Report:
    """Measure the capacity, send 80 % of it for `seconds`, and check the outcomes.

    With `bound`, memory must not grow.
    """
    report = Report(f"soak, {seconds / 60:.1f} minutes")
    pictures = [Picture(each) for each in prepare_requests(service, PROMPT, names=PICTURES)]
    rest, grpc = RestClient(service.url), GrpcClient(service.address)
    with image_server() as images_url:
        tools = Tools(service, rest, grpc, images_url, random.Random(seed))
        mix = Mix(tools, pictures, list(kinds))
        counts = Counts()
        # Each kind is sent at least once.
        for kind in mix.kinds:
            await mix.send_one(kind, counts)
        measured = min(_MEASURED_SECONDS, seconds / 6)
        start, before = time.perf_counter(), counts.total
        await run_closed_loop(lambda _: mix.send(counts), _CONCURRENCY, measured)
        capacity = (counts.total - before) / (time.perf_counter() - start)
        rate = SHARE * capacity
        report.note(
            seed=seed, capacity_per_second=round(capacity, 1), sent_per_second=round(rate, 1)
        )
        async with MemorySampler(service.process.pid, every=min(1.0, seconds / 120)) as memory:
            progress = asyncio.create_task(_log_progress(counts, memory))
            await run_paced(lambda _: mix.send(counts), rate, seconds, most=2 * _CONCURRENCY)
            progress.cancel()
        await wait_until(lambda: metric(service, IN_FLIGHT) == 0, "nothing in flight")
    await rest.close()
    await grpc.close()
    _check(report, counts, memory, mix.kinds, bound)
    return report


async def _log_progress(counts: Counts, memory: MemorySampler) -> None:
    """Log a line per minute."""
    while True:
        await asyncio.sleep(_LOG_SECONDS)
        size = memory.samples[-1][1] / MIB
        logger.info("%d requests, %d unexpected, %.1f MiB", counts.total, counts.unexpected, size)


def _check(
    report: Report, counts: Counts, memory: MemorySampler, kinds: list[RequestKind], bound: bool
) -> None:
    for kind in kinds:
        outcomes = counts.kinds[kind.name]
        allowed = " or ".join(sorted(kind.allowed))
        listed = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
        holds = bool(outcomes) and outcomes.keys() <= kind.allowed
        report.check(f"{kind.name}: {allowed}", holds, listed)
    examples = "; ".join(counts.examples)
    claim = f"no unexpected outcome in {counts.total} requests"
    report.check(claim, counts.unexpected == 0, examples)
    grown = growth(memory.samples)
    sizes = [size / MIB for _, size in memory.samples]
    report.note(
        resident_MiB=[round(size, 1) for size in sizes[:: max(1, len(sizes) // 12)]],
        peak_MiB=round(max(sizes), 1),
        growth_after_warm_up=f"{grown:.2%}",
    )
    if bound:
        claim = f"resident memory grows by at most {MOST_GROWTH:.0%} after the warm-up"
        report.check(claim, grown <= MOST_GROWTH, f"{grown:.2%}")
