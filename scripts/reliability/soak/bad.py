"""Invalid requests, which must be refused; some mutations leave a request valid."""

from __future__ import annotations

import json
import time
from functools import cache

import grpc

from reliability.load.clients import outcome_from_error
from reliability.load.outcome import LOST, OK, REFUSED, Outcome
from reliability.load.test_requests import MODEL, make_request
from reliability.mutations import messages, requests
from reliability.soak.good import infer_message, template
from reliability.soak.tools import PROMPT, Picture, RequestKind, Tools

_INFER = f"/v2/models/{MODEL}/infer"
_UNREACHABLE = "http://127.0.0.1:9/picture.png"


@cache
def _mutated_bodies(picture: Picture) -> list[bytes]:
    """Return every mutation of a request with its image in a data URL."""
    whole = template("data:", picture)
    whole["inputs"][0]["data"] = [f"data:image/png;base64,{picture.base64}"]
    return [json.dumps(mutant.request).encode() for mutant in requests.mutants(whole)]


@cache
def _mutated_requests(picture: Picture) -> list[bytes]:
    """Return every mutation of a `ModelInferRequest`."""
    return [mutant.request for mutant in messages.mutants(infer_message(picture))]


async def _mutated_body(tools: Tools, picture: Picture) -> Outcome:
    body = tools.random.choice(_mutated_bodies(picture))
    return await tools.rest.post(_INFER, body)


async def _mutated_message(tools: Tools, picture: Picture) -> Outcome:
    message = tools.random.choice(_mutated_requests(picture))
    sent = time.perf_counter()
    try:
        await tools.grpc.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message)
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    return Outcome(OK, "OK", sent, time.perf_counter())


def damage(tools: Tools, picture: Picture) -> bytes:
    """Truncate an image file, or overwrite up to 20 of its bytes."""
    file = bytearray(picture.file)
    if tools.random.random() < 0.3:
        return bytes(file[: tools.random.randrange(len(file))])
    for _ in range(tools.random.randint(1, 20)):
        file[tools.random.randrange(len(file))] = tools.random.randrange(256)
    return bytes(file)


async def _damaged_rest(tools: Tools, picture: Picture) -> Outcome:
    return await tools.rest.send(make_request("damaged", damage(tools, picture), PROMPT))


async def _damaged_grpc(tools: Tools, picture: Picture) -> Outcome:
    return await tools.grpc.send(make_request("damaged", damage(tools, picture), PROMPT))


async def _invalid_json(tools: Tools, picture: Picture) -> Outcome:
    whole = picture.request.json
    body = tools.random.choice(
        [
            b"",
            b"{",
            b"null",
            b"[1]",
            b"\xff\xfe",
            b"{}" * 1000,
            b"[" * 5000,
            whole[:-1],
            whole + b"x",
        ]
    )
    return await tools.rest.post("/v1/captions", body)


async def _unknown(tools: Tools, picture: Picture) -> Outcome:
    path = tools.random.choice(["/v2/models/none/infer", "/nothing", f"{_INFER}/more"])
    return await tools.rest.post(path, picture.request.json)


async def _missing_image(tools: Tools, picture: Picture) -> Outcome:
    url = tools.random.choice(
        [_UNREACHABLE, "ftp://127.0.0.1/x", f"{tools.images_url}/none.png", "data:,x", "http://"]
    )
    body = json.loads(picture.request.json)
    del body["image"]
    return await tools.rest.post("/v1/captions", json.dumps(body | {"image_url": url}).encode())


async def _unknown_method(tools: Tools, picture: Picture) -> Outcome:
    sent = time.perf_counter()
    try:
        await tools.grpc.channel.unary_unary("/blip.v1.CaptionService/Nothing")(b"")
    except grpc.RpcError as error:
        outcome = outcome_from_error(error, sent)
        # For an unknown method UNIMPLEMENTED is a client error.
        is_refused = outcome.code == "UNIMPLEMENTED" and outcome.kind != LOST
        kind = REFUSED if is_refused else outcome.kind
        return Outcome(kind, outcome.code, sent, outcome.ended, outcome.text)
    return Outcome(OK, "OK", sent, time.perf_counter())


_REFUSAL = frozenset({REFUSED})
_EITHER = frozenset({REFUSED, OK})
KINDS = [
    RequestKind("REST: infer, mutated", _mutated_body, _EITHER, 3),
    RequestKind("gRPC: ModelInfer, mutated", _mutated_message, _EITHER, 3),
    RequestKind("REST: a damaged image", _damaged_rest, _EITHER, 3),
    RequestKind("gRPC: a damaged image", _damaged_grpc, _EITHER, 3),
    RequestKind("REST: invalid JSON", _invalid_json, _REFUSAL, 2),
    RequestKind("REST: unknown model or path", _unknown, _REFUSAL, 1),
    RequestKind("REST: a URL without an image", _missing_image, _REFUSAL, 2),
    RequestKind("gRPC: unknown method", _unknown_method, _REFUSAL, 1),
]
