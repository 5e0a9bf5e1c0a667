"""Traffic in the background while something happens to the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from reliability.load.clients import GIVE_UP, Clients
from reliability.load.outcome import OK, WRONG, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.test_requests import Question

_PAUSE = 0.02
"""Before a request that was not answered is sent again."""


class Traffic:
    """`async with Traffic(Both(service), questions) as traffic`: callers that repeat a request until it is answered.

    The clients are closed in the end.
    """

    def __init__(self, clients: Clients, questions: Sequence[Question], at_once: int = 4) -> None:
        self._clients, self._questions, self._at_once = clients, questions, at_once
        self.outcomes: list[Outcome] = []
        """Of every attempt."""
        self.asked = self.answered = 0

    async def __aenter__(self) -> Self:
        self._is_over = False
        self._callers = [asyncio.create_task(self._call(first)) for first in range(self._at_once)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            for caller in self._callers:
                caller.cancel()
            await asyncio.gather(*self._callers, return_exceptions=True)
        else:
            await self.finish()
        await self._clients.close()

    async def finish(self) -> None:
        """No new requests; every one that was begun is answered first."""
        self._is_over = True
        async with asyncio.timeout(GIVE_UP):
            await asyncio.gather(*self._callers)

    async def more(self, count: int) -> None:
        """Waits for so many further right answers."""
        wanted = self.answered + count
        async with asyncio.timeout(GIVE_UP):
            while self.answered < wanted:
                for caller in self._callers:
                    if caller.done():
                        caller.result()
                await asyncio.sleep(0.005)

    def judge(self, report: Report, *allowed: str) -> None:
        """Claims that nothing was lost, and names what was. `allowed`: kinds of outcomes beside answers."""
        tally = Tally(self.outcomes)
        wrong = tally.of(WRONG)
        report.check("no caption is wrong", not wrong, examples(wrong))
        other = tally.beside(OK, WRONG, *allowed)
        named = " or ".join(("right answer", *allowed))
        report.check(f"every attempt: {named}", not other, examples(other) or tally)
        seen = f"{self.asked} asked, {self.answered} answered, {self.asked - self.answered} lost"
        report.check("no request is lost", self.asked == self.answered > 0, seen)

    async def _call(self, first: int) -> None:
        number = first
        while not self._is_over:
            self.asked += 1
            await self._until_answered(number)
            self.answered += 1
            # An odd step, so that a caller is not always the same transport.
            number += self._at_once + 1 - self._at_once % 2

    async def _until_answered(self, number: int) -> None:
        end = time.perf_counter() + GIVE_UP
        while True:
            outcome = await self._clients.ask(self._questions, number)
            self.outcomes.append(outcome)
            if outcome.kind in (OK, WRONG):
                return
            if time.perf_counter() > end:
                raise TimeoutError(f"a request was not answered in {GIVE_UP} s: {outcome}")
            await asyncio.sleep(_PAUSE)
