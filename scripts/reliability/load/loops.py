"""Closed and open loops of calls."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
Call = Callable[[int], Awaitable[T]]
"""Makes the call with this number."""


async def run_closed_loop(
    call: Call[T], concurrency: int, seconds: float, least: int = 0
) -> list[T]:
    """Run a closed loop: each of `concurrency` callers calls again when it has its result.

    No call starts after `seconds`, unless there were fewer than `least` calls.
    """
    end = time.perf_counter() + seconds
    results: list[T] = []
    number = 0

    async def caller() -> None:
        nonlocal number
        while time.perf_counter() < end or number < least:
            number += 1
            results.append(await call(number))

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return results


async def run_open_loop(call: Call[T], rate: float, seconds: float) -> list[T]:
    """Run an open loop: call `rate` times per second, whether or not earlier calls have ended.

    Returns the results in the order in which the calls ended.
    """
    results: list[T] = []

    async def one(number: int) -> None:
        results.append(await call(number))

    await run_paced(one, rate, seconds)
    return results


async def run_paced(call: Call[None], rate: float, seconds: float, most: int | None = None) -> None:
    """Run an open loop without results, with at most `most` concurrent calls.

    At that limit the next call waits, and the calls skipped meanwhile are not made later, so that a
    machine that slows down is not overloaded.
    """
    start = due = time.perf_counter()
    permits = asyncio.Semaphore(most or sys.maxsize)
    number = 0
    async with asyncio.TaskGroup() as group:
        while due < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            was_full = permits.locked()
            await permits.acquire()
            task = group.create_task(call(number))
            task.add_done_callback(lambda _: permits.release())
            number += 1
            due = time.perf_counter() if was_full else due + 1 / rate
