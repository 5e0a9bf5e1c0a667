"""Valid requests of every API, each with one right answer."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from reliability.load.clients import outcome_from_error
from reliability.load.outcome import FAILED, LOST, OK, WRONG, Outcome, kind_of
from reliability.load.test_requests import MODEL
from reliability.soak.tools import PROMPT, Picture, RequestKind, Tools
from service import stubs

_INFER = f"/v2/models/{MODEL}/infer"
_SERVICE = "/blip.v1.CaptionService"
_OIP = "/inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health/Check"
_MANY = 3


def tensor(name: str, *data: str) -> dict[str, Any]:
    """Return a BYTES tensor of an Open Inference request."""
    return {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": [*data]}


def template(images_url: str, picture: Picture) -> dict[str, Any]:
    """Return the request of the Inferless template, with an image URL."""
    text = tensor("text", PROMPT) | {"optional": True}
    return {"inputs": [tensor("img_url", f"{images_url}/{picture.request.name}"), text]}


def infer_message(picture: Picture) -> Any:
    """Return a `ModelInferRequest` with the bytes of the image."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, value in (("image", picture.file), ("text", PROMPT.encode())):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    return request


async def _template(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps(template(tools.images_url, picture)).encode()
    return await tools.rest.post(_INFER, body, expected=picture.expected)


async def _oip_json(tools: Tools, picture: Picture) -> Outcome:
    inputs = [tensor("image", picture.base64), tensor("text", PROMPT)]
    body = json.dumps({"inputs": inputs}).encode()
    return await tools.rest.post("/infer", body, expected=picture.expected)


async def _oip_binary(tools: Tools, picture: Picture) -> Outcome:
    blobs = [len(value).to_bytes(4, "little") + value for value in (picture.file, PROMPT.encode())]
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1]}
        | {"parameters": {"binary_data_size": len(blob)}}
        for name, blob in zip(("image", "text"), blobs, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    body = head + b"".join(blobs)
    return await tools.rest.post(_INFER, body, headers, picture.expected)


async def _short(tools: Tools, picture: Picture) -> Outcome:
    return await tools.rest.send(picture.request)


async def _form(tools: Tools, picture: Picture) -> Outcome:
    form = aiohttp.FormData({"prompt": PROMPT})
    form.add_field("image", picture.file, filename=picture.request.name)
    body = form()
    headers = {"content-type": body.content_type}
    return await tools.rest.post("/v1/captions", body, headers, picture.expected)


async def _generate(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "text_input": PROMPT}).encode()
    path = f"/v2/models/{MODEL}/generate"
    return await tools.rest.post(path, body, expected=picture.expected)


async def _events(tools: Tools, picture: Picture) -> Outcome:
    body = json.dumps({"image": picture.base64, "text_input": PROMPT}).encode()
    sent = time.perf_counter()
    code, content = await tools.rest.read(f"/v2/models/{MODEL}/generate_stream", body)
    ended = time.perf_counter()
    if code != "200":
        return Outcome(kind_of(code) if code.isdigit() else LOST, code, sent, ended, content)
    lines = [line for line in content.splitlines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    text = "".join(event.get("text_output", "") for event in events)
    is_right = text == picture.expected == events[-1].get("caption")
    return Outcome(OK if is_right else WRONG, code, sent, ended, content[-200:])


async def _caption(tools: Tools, picture: Picture) -> Outcome:
    return await tools.grpc.send(picture.request)


async def _stream(tools: Tools, picture: Picture) -> Outcome:
    messages, _ = stubs()
    call = tools.grpc.channel.unary_stream(
        f"{_SERVICE}/StreamCaption",
        response_deserializer=messages.StreamCaptionResponse.FromString,
    )
    sent = time.perf_counter()
    try:
        *pieces, last = [event async for event in call(picture.request.message)]
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    text = last.response.captions[0].text
    is_right = "".join(event.piece for event in pieces) == text == picture.expected
    return Outcome(OK if is_right else WRONG, "OK", sent, time.perf_counter(), text)


async def _many(tools: Tools, picture: Picture) -> Outcome:
    messages, _ = stubs()
    call = tools.grpc.channel.stream_stream(
        f"{_SERVICE}/CaptionMany",
        response_deserializer=messages.CaptionManyResponse.FromString,
    )
    requests = [picture.request.message] * _MANY
    sent = time.perf_counter()
    try:
        results = [result async for result in call(iter(requests))]
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    ended = time.perf_counter()
    if failed := [result for result in results if result.WhichOneof("result") == "error"]:
        code = grpc_name(failed[0].error.code)
        return Outcome(kind_of(code), code, sent, ended, failed[0].error.message)
    texts = [result.response.captions[0].text for result in results]
    is_right = texts == [picture.expected] * _MANY
    return Outcome(OK if is_right else WRONG, "OK", sent, ended, str(texts))


def grpc_name(number: int) -> str:
    """Return the name of a gRPC status code."""
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


async def _model_infer(tools: Tools, picture: Picture) -> Outcome:
    call = tools.grpc.channel.unary_unary(
        f"{_OIP}/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    sent = time.perf_counter()
    try:
        answer = await call(infer_message(picture))
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    return _check_response(answer, sent, picture)


async def _stream_infer(tools: Tools, picture: Picture) -> Outcome:
    call = tools.grpc.channel.stream_stream(
        f"{_OIP}/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )
    sent = time.perf_counter()
    try:
        (answer,) = [each async for each in call(iter([infer_message(picture)]))]
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    if answer.error_message:
        return Outcome(FAILED, "in the stream", sent, time.perf_counter(), answer.error_message)
    return _check_response(answer.infer_response, sent, picture)


def _check_response(answer: Any, sent: float, picture: Picture) -> Outcome:
    text = answer.raw_output_contents[0][4:].decode()
    kind = OK if text == picture.expected else WRONG
    return Outcome(kind, "OK", sent, time.perf_counter(), text)


async def _ready(tools: Tools, _picture: Picture) -> Outcome:
    return await tools.rest.get("/v2/health/ready")


async def _metadata(tools: Tools, _picture: Picture) -> Outcome:
    path = tools.random.choice(
        ["/v2", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/stats", "/metrics", "/openapi.json"]
    )
    return await tools.rest.get(path)


async def _health(tools: Tools, _picture: Picture) -> Outcome:
    call = tools.grpc.channel.unary_unary(
        _HEALTH,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    sent = time.perf_counter()
    try:
        answer = await call(health_pb2.HealthCheckRequest())
    except grpc.RpcError as error:
        return outcome_from_error(error, sent)
    is_right = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Outcome(OK if is_right else WRONG, "OK", sent, time.perf_counter(), str(answer.status))


_RIGHT = frozenset({OK})
KINDS = [
    RequestKind("REST: the template, image by URL", _template, _RIGHT, 4),
    RequestKind("REST: Open Inference, JSON", _oip_json, _RIGHT, 4),
    RequestKind("REST: Open Inference, binary", _oip_binary, _RIGHT, 4),
    RequestKind("REST: /v1/captions, JSON", _short, _RIGHT, 4),
    RequestKind("REST: /v1/captions, form", _form, _RIGHT, 4),
    RequestKind("REST: generate", _generate, _RIGHT, 2),
    RequestKind("REST: generate_stream", _events, _RIGHT, 4),
    RequestKind("gRPC: Caption", _caption, _RIGHT, 4),
    RequestKind("gRPC: StreamCaption", _stream, _RIGHT, 4),
    RequestKind("gRPC: CaptionMany", _many, _RIGHT, 2),
    RequestKind("gRPC: ModelInfer", _model_infer, _RIGHT, 4),
    RequestKind("gRPC: ModelStreamInfer", _stream_infer, _RIGHT, 2),
    RequestKind("REST: ready", _ready, _RIGHT, 2),
    RequestKind("REST: metadata, statistics, metrics", _metadata, _RIGHT, 2),
    RequestKind("gRPC: health", _health, _RIGHT, 2),
]
