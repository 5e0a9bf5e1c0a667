"""Proves that a jump of the wall clock by hours, in either direction, does not change durations.

Deadlines, rate limits and idle timeouts stay as configured, and requests in flight are answered.
libfaketime sets the wall clock of the service alone; its monotonic clock is not changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from reliability.faults.context import FaultContext, run_service
from reliability.faults.images import hold_image, template_body
from reliability.load.clients import GIVE_UP, BothTransports, RestClient, send_until_answered
from reliability.load.outcome import LATE, OK, OVERLOADED
from reliability.load.raw import Connection
from reliability.load.test_requests import MODEL, SampleRequest, prepare_requests
from reliability.load.traffic import Traffic
from service import Service

TITLE = "a jump of the wall clock"
HOURS = 5
_JUMPS = {"forwards": HOURS * 3600, "back again": 0, "backwards": -HOURS * 3600}
_INFER = f"/v2/models/{MODEL}/infer"
_IDLE = 3
"""Seconds of the idle timeout."""
_KEY, _LIMITED = "traffic-0123456789abcdef", "limited-0123456789abcdef"


async def run(context: FaultContext) -> None:
    """Check deadlines, rate limits and idle timeouts around each jump."""
    async with run_service(context.make_service(name="before")) as service:
        requests = prepare_requests(service)
    clock = context.folder / "clock"
    _set_clock(clock, 0)
    keys = context.folder / "keys"
    digest = hashlib.sha256(_LIMITED.encode()).hexdigest()
    keys.write_text(f"{_KEY}\nlimited:sha256:{digest} rate=0.5\n", "utf-8")
    flags = ("--api-keys-file", str(keys), "--idle-timeout", str(_IDLE), "--fetch-timeout", "60")
    async with run_service(
        context.make_service(*flags, environment=_faketime_environment(clock))
    ) as service:
        async with Traffic(BothTransports(service, _KEY), requests) as traffic:
            for name, seconds in _JUMPS.items():
                await _jump(context, service, requests[0], Jump(name, clock, seconds))
                await traffic.wait_for_answers(20)
                offset = await _read_clock(service) - time.time()
                claim = f"{name}: the clock of the service has jumped"
                context.report.check(claim, abs(offset - seconds) < 600, f"{offset:.0f} s")
        traffic.check(context.report)


@dataclass(frozen=True)
class Jump:
    """A change of the wall clock to `seconds` ahead of the real time."""

    name: str
    clock: Path
    seconds: int


async def _jump(
    context: FaultContext, service: Service, request: SampleRequest, jump: Jump
) -> None:
    """Let the clock jump while requests and an idle connection are open."""
    rest, limited = RestClient(service.url, _KEY), RestClient(service.url, _LIMITED)
    idle = await _open_connection(service)
    async with hold_image() as image:
        late_headers = {"x-request-timeout-ms": "300"}
        headers = {"x-request-timeout-ms": "60000"}
        waiting = asyncio.create_task(rest.post(_INFER, template_body(image.url), headers))
        await image.is_requested.wait()
        await send_until_answered(limited, request)
        exhausted = await _exhaust_rate_limit(limited, request)
        _set_clock(jump.clock, jump.seconds)
        again = await limited.send(request)
        late = await rest.post(_INFER, template_body(image.url), late_headers)
        image.is_released.set()
        answered = await waiting
    check, name = context.report.check, jump.name
    check(f"{name}: a request in flight keeps its deadline", answered.kind == OK, answered.code)
    check(f"{name}: a deadline passes on time", late.kind == LATE, late.code)
    both = exhausted and again.kind == OVERLOADED
    check(f"{name}: a rate limit is not refilled by the jump", both, again.code)
    await _check_idle(context, service, name, idle)
    answered = await send_until_answered(limited, request)
    check(f"{name}: a rate limit is refilled with time", answered.kind == OK, answered.code)
    await rest.close()
    await limited.close()


async def _check_idle(
    context: FaultContext, service: Service, name: str, connection: Connection
) -> None:
    """Check that a connection survives the jump and is closed after its idle timeout."""
    claim = f"{name}: an idle connection survives the jump"
    context.report.check(claim, await _is_live(service, connection))
    reader, writer = connection
    async with asyncio.timeout(GIVE_UP):
        rest = await reader.read()
    context.report.check(f"{name}: it is closed after the idle timeout", rest == b"", rest[:100])
    writer.close()


async def _open_connection(service: Service) -> Connection:
    connection = await asyncio.open_connection("127.0.0.1", service.port)
    if not await _is_live(service, connection):
        raise RuntimeError("the service does not answer the liveness probe")
    return connection


async def _is_live(service: Service, connection: Connection) -> bool:
    """Send a liveness probe on the connection and keep it open."""
    reader, writer = connection
    writer.write(f"GET /v2/health/live HTTP/1.1\r\nhost: {service.address}\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
        await reader.readexactly(int(length[1]) if length else 0)
    except (asyncio.IncompleteReadError, OSError):
        return False
    return head.startswith(b"HTTP/1.1 200")


async def _exhaust_rate_limit(limited: RestClient, request: SampleRequest) -> bool:
    """Send requests until one is refused; whether one was."""
    for _ in range(100):
        if (await limited.send(request)).kind == OVERLOADED:
            return True
    return False


async def _read_clock(service: Service) -> float:
    """Return the time of the model's last answer by the clock of the service, in Unix seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"GET /v2/models/{MODEL}/stats HTTP/1.1\r\nhost: {service.address}\r\n"
    writer.write(f"{head}authorization: Bearer {_KEY}\r\nconnection: close\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return json.loads(body)["model_stats"][0]["last_inference"] / 1000


def _set_clock(clock: Path, seconds: int) -> None:
    """Set the wall clock `seconds` ahead of the real time, in one atomic step."""
    fresh = clock.with_suffix(".fresh")
    fresh.write_text(f"{seconds:+d}\n", "ascii")
    fresh.rename(clock)


def _faketime_environment(clock: Path) -> dict[str, str]:
    found = [
        *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
        *Path("/usr/lib/faketime").glob("libfaketimeMT.so.1"),
    ]
    library = os.environ.get("FAKETIME_LIBRARY") or next(map(str, found), None)
    if library is None:
        raise RuntimeError("libfaketime is missing: run `make fault-tools` or set FAKETIME_LIBRARY")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
