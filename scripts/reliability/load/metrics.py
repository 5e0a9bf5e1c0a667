"""Reads `GET /metrics`, in the Prometheus text format, by name and labels."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection
from typing import Any

from service import Service, direct

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SECONDS = 30
IN_FLIGHT = "blip_requests_in_flight"


def metric(service: Service, name: str, **labels: str) -> float:
    """Return the sum of the service's samples of this name that have these labels."""
    with direct(f"{service.url}/metrics", timeout=_SECONDS) as reply:
        return metric_in(reply.read().decode(), name, **labels)


def metric_in(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of this name in `text` that have these labels."""
    total = 0.0
    for found, described, value in _SAMPLE.findall(text):
        if found == name and labels.items() <= dict(_LABEL.findall(described)).items():
            total += float(value)
    return total


async def wait_until(holds: Callable[[], bool], what: str, within: float = _SECONDS) -> None:
    """Poll a condition until it holds; raises TimeoutError after `within` seconds."""
    end = time.perf_counter() + within
    while not await asyncio.to_thread(holds):
        if time.perf_counter() > end:
            raise TimeoutError(f"waited {within:g} s for: {what}")
        await asyncio.sleep(0.01)


async def wait_until_received(service: Service, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait until the service has received each of these requests, or has answered it."""

    def have_arrived() -> bool:
        # In this order, so that a request answered in between counts twice rather than not at all.
        in_flight = metric(service, IN_FLIGHT)
        return in_flight + sum(task.done() for task in tasks) >= len(tasks)

    await wait_until(have_arrived, f"{len(tasks)} requests in flight")
