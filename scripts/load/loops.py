"""Closed and open loops of calls."""

from __future__ import annotations

import asyncio
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


async def paced(call: Call[None], rate: float, seconds: float) -> None:
    """The same without results, for loads that last."""
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            group.create_task(call(number))
