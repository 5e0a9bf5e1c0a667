"""The embedded model under load: closed loops of 1 to 64 connections, then fixed rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.images import jpegs
from bench.load_generators import closed_loop, open_loop
from bench.load_generators.closed_loop import Load
from bench.measure import Spread, interleave
from bench.models import scenes
from bench.settings import FORCED, Result, Settings
from bench.subjects.served import Counters, body, start_service
from reliability.load.metrics import metric
from service import Service, stubs

_CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
# Rates, as shares of the highest rate of the closed loops.
_SHARES = (0.5, 0.8)
_SECONDS = 5


def measure(settings: Settings) -> Result:
    """Measure every load in every round, so that the rows of the table can be compared."""
    closed_loop.require_tools()
    result = Result()
    pictures = jpegs(settings.pick(64))
    model = scenes()
    with start_service(settings, {model.name: model.bundles["fp32"]}) as service:
        before = Counters.read(service, model.name)
        bodies = [body(image) for image in pictures]
        messages = [_message(image) for image in pictures]
        closed = _closed(service, bodies, messages, settings)
        result.details["closed loop"] = closed
        reached = max(row["requests_per_second"]["median"] for row in closed)
        result.details["open loop"] = _open(service, bodies, messages, reached, settings)
        result.details["counters"] = Counters.read(service, model.name).since(before).json()
    return result


def _closed(
    service: Service, bodies: Sequence[bytes], messages: Sequence[bytes], settings: Settings
) -> list[dict]:
    url, address = f"{service.url}/v1/captions", service.address
    seconds = settings.pick(_SECONDS, quick=1)
    loads: dict[tuple, Callable[[int], Load]] = {}
    for count in _CONNECTIONS:
        loads["REST", count] = lambda _, n=count: closed_loop.post_rest(url, bodies, n, seconds)
        loads["gRPC", count] = lambda _, n=count: _add_failures(
            service, closed_loop.call_grpc(address, messages[0], n, seconds)
        )
    return _rows(loads, "connections", settings)


def _add_failures(service: Service, load: Load) -> Load:
    """Add the failures of all loads so far that h2load does not report; there should be none."""
    total, ok, cancelled = (
        metric(service, "blip_requests_total", surface="grpc", **outcome)
        for outcome in ({}, {"outcome": "ok"}, {"outcome": "cancelled"})
    )
    return replace(load, failed=load.failed + int(total - ok - cancelled))


def _open(
    service: Service,
    bodies: Sequence[bytes],
    messages: Sequence[bytes],
    reached: float,
    settings: Settings,
) -> list[dict]:
    url, address = f"{service.url}/v1/captions", service.address
    seconds = settings.pick(_SECONDS, quick=1)
    loads: dict[tuple, Callable[[int], Load]] = {}
    for rate in (round(share * reached, 1) for share in _SHARES):
        loads["REST", rate] = lambda _, r=rate: open_loop.post_rest(url, bodies, r, seconds)
        loads["gRPC", rate] = lambda _, r=rate: open_loop.call_grpc(address, messages, r, seconds)
    return _rows(loads, "offered per second", settings)


def _rows(loads: dict[tuple, Callable[[int], Load]], what: str, settings: Settings) -> list[dict]:
    rows = []
    for (transport, amount), seen in interleave(loads, settings.pick(3, quick=1)).items():
        row = {"transport": transport, what: amount, "failed": sum(load.failed for load in seen)}
        for name in ("requests_per_second", "p50", "p95", "p99"):
            row[name] = Spread.from_values([getattr(load, name) for load in seen]).json()
        rows.append(row)
    return rows


def _message(image: bytes) -> bytes:
    messages, _ = stubs()
    request = messages.CaptionRequest(image=image)
    for name, value in FORCED.items():
        setattr(request.parameters, name, value)
    return request.SerializeToString()
