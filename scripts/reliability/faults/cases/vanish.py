"""Proves that clients that vanish give back what they had: places while they upload, places and rows
while they read along. The house is full before they go, and has room for others afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable

from reliability.faults.stage import Stage, entered
from reliability.load.clients import Rest, until_answered
from reliability.load.metrics import IN_FLIGHT, metric, until
from reliability.load.outcome import OK, OVERLOADED, WRONG
from reliability.load.raw import Connection, begin_post, reset
from reliability.load.subject import decoder_runs
from reliability.load.test_requests import IMAGES, MODEL, Question, learn
from service import Service

TITLE = "clients that vanish while they upload or read along"
PLACES = 4
TOKENS = 120


async def run(stage: Stage) -> None:
    """Rounds of as many clients as there are places."""
    rounds = stage.few(10, short=3)
    flags = ("--queue-capacity", str(PLACES), "--body-timeout", "2")
    async with entered(stage.service(*flags)) as service:
        question = learn(service)[0]
        client = Rest(service.url)
        for what, occupy in {"uploading": _uploading, "reading along": _reading}.items():
            before = await asyncio.to_thread(decoder_runs, service)
            full, free = 0, 0
            for number in range(rounds):
                was_full, is_free = await _round(service, client, question, (occupy, number))
                full, free = full + was_full, free + is_free
            done = await asyncio.to_thread(decoder_runs, service) - before
            seen = f"{full} of {rounds} rounds"
            stage.report.check(f"{what}, they fill the house", full == rounds, seen)
            seen = f"{free} of {rounds} rounds"
            claim = f"when they vanish while {what}, the next request is answered rightly"
            stage.report.check(claim, free == rounds, seen)
        # One caption a round, and a few steps until the service sees that its reader is gone.
        seen = f"{done} decoder runs in {rounds} rounds, {TOKENS} each if nobody noticed"
        stage.report.check("rows are freed", done < rounds * TOKENS / 2, seen)
        await _silent(stage, service, client, question)
        await client.close()


async def _round(
    service: Service,
    client: Rest,
    question: Question,
    how: tuple[Callable[[Service], Awaitable[Connection]], int],
) -> tuple[bool, bool]:
    """Whether the house was full, and whether the next one is answered rightly."""
    occupy, number = how
    connections = await asyncio.gather(*(occupy(service) for _ in range(PLACES)))
    # Only then is there none left that a question could take from one of them.
    await until(lambda: metric(service, IN_FLIGHT) == PLACES, f"{PLACES} requests in flight")
    refused = await client.ask(question)
    for _, writer in connections:
        if number % 2:
            reset(writer)
        writer.close()
    answered = await until_answered(client, question)
    return refused.kind == OVERLOADED, answered.kind == OK


async def _silent(stage: Stage, service: Service, client: Rest, question: Question) -> None:
    """Those who stay connected and send nothing more lose their places, too."""
    connections = [await _uploading(service) for _ in range(PLACES)]
    answered = await until_answered(client, question)
    claim = "those who stop in the middle of an upload are given up"
    stage.report.check(claim, answered.kind == OK, answered.code)
    stage.report.check("no caption is wrong", answered.kind != WRONG)
    for _, writer in connections:
        writer.close()


async def _uploading(service: Service) -> Connection:
    """Half of a body is here."""
    body = _body()
    return await begin_post(service, "/v1/captions", body, body[: len(body) // 2])


async def _reading(service: Service) -> Connection:
    """The first piece of a long caption has come."""
    path = f"/v2/models/{MODEL}/generate_stream"
    body = _body(parameters={"min_new_tokens": TOKENS, "max_new_tokens": TOKENS})
    reader, writer = await begin_post(service, path, body, body)
    await reader.readuntil(b"data: ")
    return reader, writer


def _body(**more: object) -> bytes:
    image = base64.b64encode((IMAGES / "cats.jpg").read_bytes()).decode()
    return json.dumps({"image": image, **more}).encode()
