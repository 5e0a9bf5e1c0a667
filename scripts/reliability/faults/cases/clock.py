"""Proves that a jump of the wall clock, by hours and in both directions, moves nothing that is a duration:
deadlines, rate limits and idle times stay what they are, and requests in flight are answered.

libfaketime gives the service a wall clock of its own; the monotonic clock goes on, as in reality.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from reliability.faults.images import held_image
from reliability.faults.stage import Stage, entered
from reliability.load.clients import GIVE_UP, Both, Rest, until_answered
from reliability.load.outcome import LATE, OK, OVERLOADED
from reliability.load.raw import Connection
from reliability.load.test_requests import MODEL, Question, learn
from reliability.load.traffic import Traffic
from service import Service

TITLE = "a jump of the wall clock"
HOURS = 5
_JUMPS = {"forwards": HOURS * 3600, "back again": 0, "backwards": -HOURS * 3600}
_IDLE = 3
_KEY, _LIMITED = "traffic-0123456789abcdef", "limited-0123456789abcdef"


async def run(stage: Stage) -> None:
    """All of that around each jump."""
    async with entered(stage.service(name="before")) as service:
        questions = learn(service)
    clock = stage.folder / "clock"
    _set(clock, 0)
    keys = stage.folder / "keys"
    digest = hashlib.sha256(_LIMITED.encode()).hexdigest()
    keys.write_text(f"{_KEY}\nlimited:sha256:{digest} rate=0.5\n", "utf-8")
    flags = ("--api-keys-file", str(keys), "--idle-timeout", str(_IDLE), "--fetch-timeout", "60")
    async with entered(stage.service(*flags, environment=_faked(clock))) as service:
        async with Traffic(Both(service, _KEY), questions) as traffic:
            for name, seconds in _JUMPS.items():

                def jump(seconds: int = seconds) -> None:
                    _set(clock, seconds)

                await _around(stage, service, questions[0], (name, jump))
                await traffic.more(20)
                seen = await _clock_of(service) - time.time()
                is_there = abs(seen - seconds) < 600
                stage.report.check(f"{name}: the service sees the jump", is_there, f"{seen:.0f} s")
        traffic.judge(stage.report)


async def _around(
    stage: Stage, service: Service, question: Question, how: tuple[str, Callable[[], None]]
) -> None:
    """What is under way when the clock jumps."""
    name, jump = how
    rest, limited = Rest(service.url, _KEY), Rest(service.url, _LIMITED)
    idle = await _kept_connection(service)
    async with held_image() as (url, is_asked, release):
        waiting = asyncio.create_task(rest.post(*_template(url), {"x-request-timeout-ms": "60000"}))
        await is_asked.wait()
        await until_answered(limited, question)
        exhausted = await _until_refused(limited, question)
        jump()
        again = await limited.ask(question)
        late = await rest.post(*_template(url), {"x-request-timeout-ms": "300"})
        release.set()
        answered = await waiting
    check = stage.report.check
    check(f"{name}: a request in flight keeps its deadline", answered.kind == OK, answered.code)
    check(f"{name}: a deadline passes when it should", late.kind == LATE, late.code)
    both = exhausted and again.kind == OVERLOADED
    check(f"{name}: a rate limit is not filled by the jump", both, again.code)
    await _idle(stage, service, name, idle)
    answered = await until_answered(limited, question)
    check(f"{name}: a rate limit fills with time", answered.kind == OK, answered.code)
    await rest.close()
    await limited.close()


async def _idle(
    stage: Stage,
    service: Service,
    name: str,
    connection: Connection,
) -> None:
    """A connection from before the jump is alive; one that rests after it is closed in time."""
    claim = f"{name}: a kept connection outlives the jump"
    stage.report.check(claim, await _is_live(service, connection))
    reader, writer = connection
    async with asyncio.timeout(GIVE_UP):
        rest = await reader.read()
    stage.report.check(f"{name}: it is closed once it rests", rest == b"", rest[:100])
    writer.close()


async def _kept_connection(service: Service) -> Connection:
    connection = await asyncio.open_connection("127.0.0.1", service.port)
    if not await _is_live(service, connection):
        raise RuntimeError("the service does not answer whether it is live")
    return connection


async def _is_live(service: Service, connection: Connection) -> bool:
    """Asks on the connection and leaves it as it was."""
    reader, writer = connection
    writer.write(f"GET /v2/health/live HTTP/1.1\r\nhost: {service.address}\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
        await reader.readexactly(int(length[1]) if length else 0)
    except (asyncio.IncompleteReadError, OSError):
        return False
    return head.startswith(b"HTTP/1.1 200")


async def _until_refused(limited: Rest, question: Question) -> bool:
    """Whether the rate limit is reached."""
    for _ in range(100):
        if (await limited.ask(question)).kind == OVERLOADED:
            return True
    return False


async def _clock_of(service: Service) -> float:
    """When the model last answered, by the clock of the service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"GET /v2/models/{MODEL}/stats HTTP/1.1\r\nhost: {service.address}\r\n"
    writer.write(f"{head}authorization: Bearer {_KEY}\r\nconnection: close\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return json.loads(body)["model_stats"][0]["last_inference"] / 1000


def _template(url: str) -> tuple[str, bytes]:
    image = {"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]}
    return f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [image]}).encode()


def _set(clock: Path, seconds: int) -> None:
    """The wall clock is so far ahead; at once and as a whole."""
    fresh = clock.with_suffix(".fresh")
    fresh.write_text(f"{seconds:+d}\n", "ascii")
    fresh.rename(clock)


def _faked(clock: Path) -> dict[str, str]:
    found = [
        *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
        *Path("/usr/lib/faketime").glob("libfaketimeMT.so.1"),
    ]
    library = os.environ.get("FAKETIME_LIBRARY") or next(map(str, found), None)
    if library is None:
        raise RuntimeError("libfaketime is not there: `make fault-tools`, or FAKETIME_LIBRARY")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
