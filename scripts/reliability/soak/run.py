"""The soak itself: a mix of all kinds at a share of what the service carries, and what is claimed of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from reliability.load.clients import Grpc, Rest
from reliability.load.loops import closed, paced
from reliability.load.metrics import IN_FLIGHT, metric, until
from reliability.load.outcome import Outcome
from reliability.load.report import Report
from reliability.load.resident import MIB, Sampled
from reliability.load.test_requests import learn
from reliability.soak import bad, good, leaving
from reliability.soak.memory import growth
from reliability.soak.tools import PROMPT, Kind, Picture, Tools, image_server
from service import Service

logger = logging.getLogger("soak")

PICTURES = ("cats.jpg", "umbrella-guitar.jpg", "flower.gif", "rocket-guitar.webp")
SHARE = 0.8
MOST_GROWTH = 0.02
BROKEN = "broken"
"""The kind of an outcome that the client could not make sense of."""
_AT_ONCE = 16
_MEASURED_SECONDS = 5.0
_EXAMPLES = 20
_TELL_SECONDS = 60

ALL = [*good.KINDS, *bad.KINDS, *leaving.KINDS]


@dataclass
class Seen:
    """Counts by kind of request, and examples of what should not be."""

    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, kind: Kind, outcome: Outcome) -> None:
        """One more."""
        self.kinds[kind.name][outcome.kind] += 1
        if outcome.kind not in kind.allowed:
            self.unexpected += 1
            if len(self.examples) < _EXAMPLES:
                text = f"{kind.name}: {outcome.kind} {outcome.code}: {outcome.text[:300]}"
                self.examples.append(text)

    @property
    def total(self) -> int:
        """All requests."""
        return sum(sum(counts.values()) for counts in self.kinds.values())


@dataclass
class Mix:
    """Kinds in random order, by their weights."""

    tools: Tools
    pictures: list[Picture]
    kinds: list[Kind]

    async def send(self, seen: Seen) -> None:
        """One request of any kind."""
        chance = self.tools.random
        (kind,) = chance.choices(self.kinds, [kind.weight for kind in self.kinds])
        await self.send_one(kind, seen)

    async def send_one(self, kind: Kind, seen: Seen) -> None:
        """One request of this kind."""
        picture = self.tools.random.choice(self.pictures)
        try:
            outcome = await kind.send(self.tools, picture)
        except Exception as error:
            # Whatever a client trips over is something that should not have come.
            now = time.perf_counter()
            outcome = Outcome(BROKEN, type(error).__name__, now, now, str(error))
        seen.add(kind, outcome)


async def soak(
    service: Service, seconds: float, seed: int, kinds: Iterable[Kind] = ALL, bound: bool = True
) -> Report:
    """Measures the load, keeps 80 % of it up for so long, and judges. `bound`: memory must not grow."""
    report = Report(f"soak, {seconds / 60:.1f} minutes")
    pictures = [Picture(each) for each in learn(service, PROMPT, names=PICTURES)]
    rest, grpc = Rest(service.url), Grpc(service.address)
    with image_server() as images_url:
        tools = Tools(service, rest, grpc, images_url, random.Random(seed))
        mix = Mix(tools, pictures, list(kinds))
        seen = Seen()
        # Each kind once, whatever chance has in store.
        for kind in mix.kinds:
            await mix.send_one(kind, seen)
        measured = min(_MEASURED_SECONDS, seconds / 6)
        start, before = time.perf_counter(), seen.total
        await closed(lambda _: mix.send(seen), _AT_ONCE, measured)
        carried = (seen.total - before) / (time.perf_counter() - start)
        rate = SHARE * carried
        report.note(seed=seed, carried_per_second=round(carried, 1), sent_per_second=round(rate, 1))
        async with Sampled(service.process.pid, every=min(1.0, seconds / 120)) as memory:
            telling = asyncio.create_task(_tell(seen, memory))
            await paced(lambda _: mix.send(seen), rate, seconds, most=2 * _AT_ONCE)
            telling.cancel()
        await until(lambda: metric(service, IN_FLIGHT) == 0, "nothing in flight")
    await rest.close()
    await grpc.close()
    _judge(report, seen, memory, mix.kinds, bound)
    return report


async def _tell(seen: Seen, memory: Sampled) -> None:
    """A line a minute, for who watches."""
    while True:
        await asyncio.sleep(_TELL_SECONDS)
        size = memory.samples[-1][1] / MIB
        logger.info("%d requests, %d unexpected, %.1f MiB", seen.total, seen.unexpected, size)


def _judge(report: Report, seen: Seen, memory: Sampled, kinds: list[Kind], bound: bool) -> None:
    for kind in kinds:
        counts = seen.kinds[kind.name]
        other = {name: count for name, count in counts.items() if name not in kind.allowed}
        allowed = " or ".join(sorted(kind.allowed))
        listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        report.check(f"{kind.name}: {allowed}", bool(counts) and not other, listed)
    examples = "; ".join(seen.examples)
    claim = f"no unexpected outcome in {seen.total} requests"
    report.check(claim, seen.unexpected == 0, examples)
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
