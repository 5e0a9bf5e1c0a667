"""Clients that do not wait for the whole response: they disconnect, or have a short deadline."""

from __future__ import annotations

import asyncio
import json
import time

import grpc

from reliability.load.clients import outcome_from_error
from reliability.load.outcome import LATE, OK, Outcome
from reliability.load.raw import begin_post, reset
from reliability.load.test_requests import MODEL
from reliability.soak.tools import LEFT, Picture, RequestKind, Tools
from service import stubs

_LONG = {"min_new_tokens": 100, "max_new_tokens": 100}
_MOST_SECONDS = 0.02


async def _disconnect_uploading(tools: Tools, picture: Picture) -> Outcome:
    body = picture.request.json
    sent = time.perf_counter()
    part = body[: tools.random.randrange(len(body))]
    _, writer = await begin_post(tools.service, "/v1/captions", body, part)
    return await _disconnect(tools, writer, sent)


async def _disconnect_waiting(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "parameters": _LONG}).encode()
    sent = time.perf_counter()
    _, writer = await begin_post(tools.service, "/v1/captions", body, body)
    return await _disconnect(tools, writer, sent)


async def _disconnect_streaming(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "parameters": _LONG}).encode()
    sent = time.perf_counter()
    path = f"/v2/models/{MODEL}/generate_stream"
    reader, writer = await begin_post(tools.service, path, body, body)
    await reader.readuntil(b"data: ")
    return await _disconnect(tools, writer, sent)


async def _disconnect(tools: Tools, writer: asyncio.StreamWriter, sent: float) -> Outcome:
    await asyncio.sleep(tools.random.random() * _MOST_SECONDS)
    if tools.random.random() < 0.5:
        reset(writer)
    writer.close()
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


async def _cancelled(tools: Tools, picture: Picture) -> Outcome:
    call = asyncio.create_task(tools.grpc.send(picture.request))
    sent = time.perf_counter()
    done, _ = await asyncio.wait([call], timeout=tools.random.random() * _MOST_SECONDS)
    if done:
        return call.result()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


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
        return outcome_from_error(error, sent)
    call.cancel()
    return Outcome(LEFT, LEFT, sent, time.perf_counter())


async def _short_deadline(tools: Tools, picture: Picture) -> Outcome:
    return await tools.rest.send(picture.request, tools.random.uniform(0.001, _MOST_SECONDS))


async def _short_deadline_grpc(tools: Tools, picture: Picture) -> Outcome:
    return await tools.grpc.send(picture.request, tools.random.uniform(0.001, _MOST_SECONDS))


_DISCONNECTED = frozenset({LEFT})
_DISCONNECTED_OR_OK = frozenset({LEFT, OK})
_LATE_OR_OK = frozenset({OK, LATE})
KINDS = [
    RequestKind("disconnects while uploading", _disconnect_uploading, _DISCONNECTED, 2),
    RequestKind("disconnects while waiting", _disconnect_waiting, _DISCONNECTED, 2),
    RequestKind("disconnects while streaming", _disconnect_streaming, _DISCONNECTED, 2),
    RequestKind("gRPC: cancels", _cancelled, _DISCONNECTED_OR_OK, 2),
    RequestKind("gRPC: cancels a stream", _cancelled_stream, _DISCONNECTED, 2),
    RequestKind("REST: short deadline", _short_deadline, _LATE_OR_OK, 2),
    RequestKind("gRPC: short deadline", _short_deadline_grpc, _LATE_OR_OK, 2),
]
