"""Clients that do not wait for the whole answer: they leave, or have little time."""

from __future__ import annotations

import asyncio
import json
import time

import grpc

from reliability.load.clients import of_error
from reliability.load.outcome import LATE, OK, Outcome
from reliability.load.raw import begin_post, reset
from reliability.load.test_requests import MODEL
from reliability.soak.tools import LEFT, Kind, Picture, Tools
from service import stubs

_LONG = {"min_new_tokens": 100, "max_new_tokens": 100}
_MOST_SECONDS = 0.02


async def _while_uploading(tools: Tools, picture: Picture) -> Outcome:
    body = picture.question.json
    sent = time.perf_counter()
    part = body[: tools.random.randrange(len(body))]
    _, writer = await begin_post(tools.service, "/v1/captions", body, part)
    return await _leave(tools, writer, sent)


async def _while_waiting(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "parameters": _LONG}).encode()
    sent = time.perf_counter()
    _, writer = await begin_post(tools.service, "/v1/captions", body, body)
    return await _leave(tools, writer, sent)


async def _while_reading(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "parameters": _LONG}).encode()
    sent = time.perf_counter()
    path = f"/v2/models/{MODEL}/generate_stream"
    reader, writer = await begin_post(tools.service, path, body, body)
    await reader.readuntil(b"data: ")
    return await _leave(tools, writer, sent)


async def _leave(tools: Tools, writer: asyncio.StreamWriter, sent: float) -> Outcome:
    await asyncio.sleep(tools.random.random() * _MOST_SECONDS)
    if tools.random.random() < 0.5:
        reset(writer)
    writer.close()
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


async def _cancelled(tools: Tools, picture: Picture) -> Outcome:
    asking = asyncio.create_task(tools.grpc.ask(picture.question))
    return await _cancel(tools, asking)


async def _cancelled_stream(tools: Tools, picture: Picture) -> Outcome:
    messages, _ = stubs()
    request = messages.CaptionRequest(image=picture.file, parameters=_LONG)
    call = tools.grpc.channel.unary_stream(
        "/blip.v1.CaptionService/StreamCaption",
        request_serializer=messages.CaptionRequest.SerializeToString,
    )(request)
    sent = time.perf_counter()
    try:
        await call.read()
    except grpc.RpcError as error:
        return of_error(error, sent)
    call.cancel()
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


async def _cancel(tools: Tools, asking: asyncio.Task[Outcome]) -> Outcome:
    sent = time.perf_counter()
    done, _ = await asyncio.wait([asking], timeout=tools.random.random() * _MOST_SECONDS)
    if done:
        return asking.result()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


async def _short_of_time(tools: Tools, picture: Picture) -> Outcome:
    return await tools.rest.ask(picture.question, tools.random.uniform(0.001, _MOST_SECONDS))


async def _short_of_time_grpc(tools: Tools, picture: Picture) -> Outcome:
    return await tools.grpc.ask(picture.question, tools.random.uniform(0.001, _MOST_SECONDS))


_GONE = frozenset({LEFT})
_MAYBE_GONE = frozenset({LEFT, OK})
_MAYBE_LATE = frozenset({OK, LATE})
KINDS = [
    Kind("leaves while it uploads", _while_uploading, _GONE, 2),
    Kind("leaves while it waits", _while_waiting, _GONE, 2),
    Kind("leaves while it reads along", _while_reading, _GONE, 2),
    Kind("gRPC: cancels", _cancelled, _MAYBE_GONE, 2),
    Kind("gRPC: cancels a stream", _cancelled_stream, _GONE, 2),
    Kind("REST: little time", _short_of_time, _MAYBE_LATE, 2),
    Kind("gRPC: little time", _short_of_time_grpc, _MAYBE_LATE, 2),
]
