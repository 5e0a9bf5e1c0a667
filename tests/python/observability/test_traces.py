"""Traces as a collector receives them: spans, parents, attributes, sampling, and a collector that is missing."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service import ROOT, Service, models_toml
from support.clients import MODEL, PROMPT, SECONDS, picture
from support.otlp import Collector, values
from support.work import NO_CACHES

KEY = "a-key-that-must-not-be-logged"
QUERY = "signature=that-must-not-be-logged"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
STAGES = ["decode", "preprocess", "queue", "encode", "decode_steps", "detokenise"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def service(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without caches, so that every request passes every stage."""
    with start(tmp_path_factory.mktemp("traces"), f"--otlp-endpoint={collector.url}") as running:
        yield running


def start(folder: Path, *flags: str, **environment: str) -> Service:
    """Returns a service with a key and a log in JSON, not yet started."""
    models = folder / "models.toml"
    models.write_text(models_toml({MODEL: ROOT / "models" / MODEL}, MODEL) + NO_CACHES)
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    flags = ("--allow-private-networks", f"--api-keys-file={keys}", "--log-format=json", *flags)
    return Service(models, log=folder / "log", flags=flags, environment=QUICK | environment)


def make_parent(sampled: bool = True) -> tuple[str, str, str]:
    """Returns trace id, span id and traceparent of a caller."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{int(sampled):02}"


def post(service: Service, body: dict[str, Any], path: str = "/v1/captions", **headers: str) -> Any:
    headers |= {"authorization": f"Bearer {KEY}"}
    return requests.post(service.url + path, json=body, headers=headers, timeout=SECONDS)


def body_with_url(url: str) -> dict[str, Any]:
    return {"image_url": f"{url}/cats.jpg?{QUERY}", "prompt": PROMPT}


def lines(service: Service) -> list[dict[str, Any]]:
    """Returns the lines of the log so far."""
    assert service.log
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def is_within(stage: Span, root: Span) -> bool:
    # The clocks of the two are read one after the other.
    slack = 10_000_000
    times = [stage.start_time_unix_nano, stage.end_time_unix_nano, root.end_time_unix_nano + slack]
    return [root.start_time_unix_nano - slack, *times] == sorted(
        [root.start_time_unix_nano - slack, *times]
    )


def test_a_request_over_rest_is_a_trace_with_a_span_per_stage(
    service: Service, collector: Collector, images_url: str
) -> None:
    trace_id, span_id, traceparent = make_parent()
    headers = {"traceparent": traceparent, "tracestate": "vendor=1"}
    reply = post(service, body_with_url(images_url), f"/v1/captions?{QUERY}", **headers)
    assert reply.status_code == 200
    request_id = reply.headers["x-request-id"]
    trace = collector.trace(request_id)
    assert (trace.root.trace_id.hex(), trace.root.parent_span_id.hex()) == (trace_id, span_id)
    assert (trace.root.name, trace.root.kind) == ("POST /v1/captions", Span.SPAN_KIND_SERVER)
    assert trace.root.trace_state == "vendor=1"
    assert trace.attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/captions",
        "http.route": "/v1/captions",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": service.port,
        "request_id": request_id,
        "model": MODEL,
        "key": trace.attributes["key"],
        "outcome": "ok",
    }
    assert trace.attributes["key"] and trace.attributes["key"] != KEY
    assert trace.names == dict.fromkeys(["fetch", *STAGES], 1)
    starts = [trace.stage(name).start_time_unix_nano for name in ["fetch", *STAGES]]
    assert starts == sorted(starts)
    for stage in trace.stages:
        assert (stage.trace_id, stage.kind) == (trace.root.trace_id, Span.SPAN_KIND_INTERNAL)
        assert is_within(stage, trace.root), stage.name
    logged = [
        line for line in lines(service) if line.get("span", {}).get("request_id") == request_id
    ]
    assert {line["span"]["trace_id"] for line in logged} == {trace_id}
    assert collector.resource["service.name"] == "blip-serve"


def test_the_span_of_decode_steps_has_the_numbers_of_rows_and_tokens(
    service: Service, collector: Collector
) -> None:
    request = service.messages.CaptionRequest(image=picture())
    request.parameters.num_beams = 3
    request.parameters.num_return_sequences = 2
    reply, request_id = caption(service, request)
    trace = collector.trace(request_id)
    attributes = values(trace.stage("decode_steps").attributes)
    lengths = [len(each.token_ids) - 1 for each in reply.captions]
    assert (attributes["rows"], attributes["tokens"]) == (3, sum(lengths))
    assert attributes["steps"] >= max(lengths)


def caption(service: Service, request: Any, *metadata: tuple[str, str]) -> tuple[Any, str]:
    """Returns the response to a unary request, and its id."""
    metadata = (("authorization", f"Bearer {KEY}"), *metadata)
    reply, call = service.stub.Caption.with_call(request, metadata=metadata, timeout=SECONDS)
    return reply, dict(call.initial_metadata())["x-request-id"]


def test_a_request_over_grpc_is_a_trace_with_a_span_per_stage(
    service: Service, collector: Collector
) -> None:
    trace_id, span_id, traceparent = make_parent()
    request = service.messages.CaptionRequest(image=picture(), prompt=PROMPT)
    _, request_id = caption(service, request, ("traceparent", traceparent))
    trace = collector.trace(request_id)
    assert (trace.root.trace_id.hex(), trace.root.parent_span_id.hex()) == (trace_id, span_id)
    assert trace.root.name == "blip.v1.CaptionService/Caption"
    attributes = trace.attributes
    assert (attributes["rpc.system"], attributes["rpc.service"]) == (
        "grpc",
        "blip.v1.CaptionService",
    )
    assert (attributes["rpc.method"], attributes["rpc.grpc.status_code"]) == ("Caption", 0)
    assert attributes["server.port"] == service.port and "http.request.method" not in attributes
    assert trace.names == dict.fromkeys(STAGES, 1)


@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_an_unknown_method_is_not_the_name_of_a_span(
    service: Service, collector: Collector, key: str
) -> None:
    path, request_id = "/made.up/Method", f"made-up-{key[:5]}"
    metadata = (("authorization", f"Bearer {key}"), ("x-request-id", request_id))
    with pytest.raises(grpc.RpcError):
        service.channel.unary_unary(path)(b"", metadata=metadata, timeout=SECONDS)
    assert collector.trace(request_id).root.name == "unknown method"


@pytest.mark.parametrize("method", ["StreamCaption", "CaptionMany"])
def test_a_stream_is_one_request(service: Service, collector: Collector, method: str) -> None:
    trace_id, span_id, traceparent = make_parent()
    metadata = (("authorization", f"Bearer {KEY}"), ("traceparent", traceparent))
    request = service.messages.CaptionRequest(image=picture())
    many = iter([request] * 3) if method == "CaptionMany" else request
    call = getattr(service.stub, method)(many, metadata=metadata, timeout=SECONDS)
    assert len(list(call)) >= 3
    trace = collector.trace(dict(call.initial_metadata())["x-request-id"])
    assert (trace.root.trace_id.hex(), trace.root.parent_span_id.hex()) == (trace_id, span_id)
    assert trace.names == dict.fromkeys(STAGES, 3 if method == "CaptionMany" else 1)
    assert all(is_within(stage, trace.root) for stage in trace.stages)
    assert trace.attributes["rpc.method"] == method and trace.attributes["outcome"] == "ok"


def test_server_sent_events_and_several_images_have_a_span_per_stage(
    service: Service, collector: Collector
) -> None:
    image = "data:;base64," + base64.b64encode(picture()).decode()
    path = f"/v2/models/{MODEL}/generate_stream"
    events = post(service, {"image_url": image}, path)
    trace = collector.trace(events.headers["x-request-id"])
    assert trace.names == dict.fromkeys(STAGES, 1)
    assert trace.root.name == "POST /v2/models/{model}/generate_stream"
    tensor = {"name": "img_url", "datatype": "BYTES", "shape": [2], "data": [image, image]}
    two = post(service, {"inputs": [tensor]}, "/infer")
    assert collector.trace(two.headers["x-request-id"]).names == dict.fromkeys(STAGES, 2)


def test_a_request_that_its_caller_does_not_sample_is_not_traced(
    service: Service, collector: Collector
) -> None:
    trace_id, _, silent = make_parent(sampled=False)
    body = {"image_url": "http://127.0.0.1:9/"}
    request_id = post(service, body, traceparent=silent).headers["x-request-id"]
    # Batches are ordered: a span of the first request would have arrived before this trace.
    collector.trace(post(service, body).headers["x-request-id"])
    assert not [span for span in collector.spans if span.trace_id.hex() == trace_id]
    logged = [
        line for line in lines(service) if line.get("span", {}).get("request_id") == request_id
    ]
    assert logged and {line["span"]["trace_id"] for line in logged} == {trace_id}


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "x",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}",
        f"ff-{'1' * 32}-{'1' * 16}-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(
    service: Service, collector: Collector, malformed: str
) -> None:
    reply = post(service, {"image_url": "data:,"}, traceparent=malformed, tracestate="=,=")
    assert reply.status_code == 400
    root = collector.trace(reply.headers["x-request-id"]).root
    assert not root.parent_span_id and root.trace_id.hex() not in ("0" * 32, "1" * 32)


def test_failures_are_attributed_to_client_or_server(
    service: Service, collector: Collector
) -> None:
    reply = post(service, {"image_url": "http://127.0.0.1:9/x.png"})
    trace = collector.trace(reply.headers["x-request-id"])
    assert (reply.status_code, trace.attributes["http.response.status_code"]) == (400, 400)
    assert trace.attributes["outcome"] == "client_error"
    assert trace.attributes["reason"] == "IMAGE_URL_REFUSED"
    assert trace.names == {"fetch": 1} and trace.root.status.code == Status.STATUS_CODE_UNSET
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        reply = post(service, {"image_url": url}, **{"x-request-timeout-ms": "200"})
    trace = collector.trace(reply.headers["x-request-id"])
    assert (reply.status_code, trace.root.status.code) == (504, Status.STATUS_CODE_ERROR)
    assert trace.attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert trace.names == {"fetch": 1}
    request = service.messages.CaptionRequest(image=b"not an image")
    with pytest.raises(grpc.RpcError) as failure:
        caption(service, request)
    metadata = dict(failure.value.initial_metadata()) | dict(failure.value.trailing_metadata())
    trace = collector.trace(metadata["x-request-id"])
    assert trace.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert trace.names == {"decode": 1}


def test_no_secret_is_in_traces_or_logs(
    service: Service, collector: Collector, images_url: str
) -> None:
    successful = post(service, body_with_url(images_url), f"/v1/captions?{QUERY}")
    refused = post(service, body_with_url("http://127.0.0.1:9"), f"/v1/captions?{QUERY}")
    unknown = post(service, {"image_url": "x"}, f"/nowhere?{QUERY}")
    for reply in [successful, refused, unknown]:
        collector.trace(reply.headers["x-request-id"])
    assert service.log
    recorded = b"".join(collector.bodies) + service.log.read_bytes()
    assert successful.json()["captions"][0]["text"].startswith(PROMPT)
    for secret in [KEY, QUERY, QUERY.split("=")[1], PROMPT]:
        assert secret.encode() not in recorded


def test_the_sampling_ratio_applies_to_requests_without_a_parent(tmp_path: Path) -> None:
    body = {"image_url": "data:,"}
    with Collector() as collector:
        flags = (f"--otlp-endpoint={collector.url}/", "--trace-sample=0")
        with start(tmp_path, *flags) as service:
            post(service, body)
            trace_id, _, traceparent = make_parent()
            request_id = post(service, body, traceparent=traceparent).headers["x-request-id"]
            assert collector.trace(request_id).root.trace_id.hex() == trace_id
        assert {span.trace_id.hex() for span in collector.spans} == {trace_id}


def test_the_environment_of_opentelemetry_is_read(tmp_path: Path) -> None:
    with Collector() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "captions",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            # Spans are sent at shutdown only.
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        with start(tmp_path, **environment) as service:
            request_id = post(service, {"image_url": "data:,"}).headers["x-request-id"]
            assert not collector.spans
        assert collector.trace(request_id).names == {}
        assert collector.resource["service.name"] == "captions"
        assert collector.resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize("kind", ["absent", "silent", "refusing"])
def test_an_unavailable_collector_fails_no_request(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Collector(status=503) as refusing:
        addresses = {
            "absent": "http://127.0.0.1:9",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "refusing": refusing.url,
        }
        service = start(tmp_path, f"--otlp-endpoint={addresses[kind]}")
        with service:
            for _ in range(30):
                assert post(service, {"image": picture().hex()}).status_code == 400
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(SECONDS) == 0
    warnings = [line for line in lines(service) if line["level"] == "WARN"]
    reports = [line for line in warnings if "collector" in line["message"]]
    # A silent collector has not failed yet.
    assert len(reports) == (kind != "silent")
    assert "127.0.0.1" not in json.dumps(reports)


def test_without_a_collector_there_are_no_traces(tmp_path: Path) -> None:
    _, _, traceparent = make_parent()
    with start(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="") as service:
        assert post(service, {"image_url": "data:,"}, traceparent=traceparent).status_code == 400
    assert "trace_id" not in (tmp_path / "log").read_text()
