"""Closed and open loops of calls."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
Call = Callable[[int], Awaitable[T]]
"""The call of this number."""


async def closed(call: Call[T], at_once: int, seconds: float, least: int = 0) -> list[T]:
    """So many callers, each calls again when it has its answer.

    None begins after `seconds`, unless there are fewer than `least` calls.
    """
    end = time.perf_counter() + seconds
    results: list[T] = []
    number = 0

    async def caller() -> None:
        nonlocal number
        while time.perf_counter() < end or number < least:
            number += 1
            results.append(await call(number))

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return results


async def at_rate(call: Call[T], rate: float, seconds: float) -> list[T]:
    """Calls at a fixed rate, whether or not earlier ones are answered; results as they came."""
    results: list[T] = []

    async def one(number: int) -> None:
        results.append(await call(number))

    await paced(one, rate, seconds)
    return results


async def paced(call: Call[None], rate: float, seconds: float, most: int | None = None) -> None:
    """The same without results, for loads that last.

    With `most` calls under way the next one waits, and what was not called meanwhile is not made up
    for: a machine that gets slower is not flooded.
    """
    start = due = time.perf_counter()
    places = asyncio.Semaphore(most or sys.maxsize)
    number = 0
    async with asyncio.TaskGroup() as group:
        while due < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            was_full = places.locked()
            await places.acquire()
            task = group.create_task(call(number))
            task.add_done_callback(lambda _: places.release())
            number += 1
            due = time.perf_counter() if was_full else due + 1 / rate
