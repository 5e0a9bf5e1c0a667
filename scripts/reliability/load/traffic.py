"""Background traffic while a fault affects the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from reliability.load.clients import GIVE_UP, Clients
from reliability.load.outcome import OK, WRONG, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.test_requests import SampleRequest

_PAUSE = 0.02
"""Seconds before a request that was not answered is sent again."""


class Traffic:
    """Callers that repeat each request until it is answered.

    Used as `async with Traffic(BothTransports(service), requests) as traffic`, which closes the clients.
    """

    def __init__(
        self, clients: Clients, requests: Sequence[SampleRequest], concurrency: int = 4
    ) -> None:
        self._clients, self._requests, self._concurrency = clients, requests, concurrency
        self.outcomes: list[Outcome] = []
        """The outcome of every attempt."""
        self.sent = self.answered = 0

    async def __aenter__(self) -> Self:
        self._is_over = False
        self._callers = [
            asyncio.create_task(self._call(first)) for first in range(self._concurrency)
        ]
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
        """Start no new requests, and wait until those in flight are answered."""
        self._is_over = True
        async with asyncio.timeout(GIVE_UP):
            await asyncio.gather(*self._callers)

    async def wait_for_answers(self, count: int) -> None:
        """Wait for `count` further answers."""
        expected = self.answered + count
        async with asyncio.timeout(GIVE_UP):
            while self.answered < expected:
                for caller in self._callers:
                    if caller.done():
                        caller.result()
                await asyncio.sleep(0.005)

    def check(self, report: Report, *allowed: str) -> None:
        """Claim that no request was lost; `allowed` are the permitted kinds besides answers."""
        tally = Tally(self.outcomes)
        wrong = tally.of_kind(WRONG)
        report.check("no caption is wrong", not wrong, examples(wrong))
        other = tally.other_than(OK, WRONG, *allowed)
        named = " or ".join(("right answer", *allowed))
        report.check(f"every attempt: {named}", not other, examples(other) or tally)
        seen = f"{self.sent} sent, {self.answered} answered, {self.sent - self.answered} lost"
        report.check("no request is lost", self.sent == self.answered > 0, seen)

    async def _call(self, first: int) -> None:
        number = first
        while not self._is_over:
            self.sent += 1
            await self._until_answered(number)
            self.answered += 1
            # An odd step, so that a caller alternates between the transports.
            number += self._concurrency + 1 - self._concurrency % 2

    async def _until_answered(self, number: int) -> None:
        end = time.perf_counter() + GIVE_UP
        while True:
            outcome = await self._clients.send(self._requests, number)
            self.outcomes.append(outcome)
            if outcome.kind in (OK, WRONG):
                return
            if time.perf_counter() > end:
                raise TimeoutError(f"a request was not answered in {GIVE_UP} s: {outcome}")
            await asyncio.sleep(_PAUSE)
