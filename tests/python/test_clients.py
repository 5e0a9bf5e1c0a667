"""The service as real clients see it: curl, the Inferless client, grpcio with health and reflection.

A client that is not installed fails these tests; none is skipped.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import inferless
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from service import Service

IMAGES = Path(__file__).resolve().parents[2] / "examples" / "images"
PICTURE = "tree-cat.png"
PROMPT = "a photography of"
HEALTH_SECONDS = 10

TEMPLATE_BODY = """{
                "inputs": [
                    {
                    "name": "img_url",
                    "shape": [1],
                    "data": ["https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"],
                    "datatype": "BYTES"
                    },
                    {
                    "name": "text",
                    "optional": true,
                    "shape": [1],
                    "data": ["a photography of"],
                    "datatype": "BYTES"
                    }
                ]
                }"""
TEMPLATE_IMAGE = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the sample images without a line on stderr for each."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(IMAGES))

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def image_url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{PICTURE}"
        server.shutdown()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("clients") / "service.log"
    with Service(log=log) as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def caption(service: Service) -> str:
    """What the typed gRPC client gets for the picture and the prompt."""
    return service.caption((IMAGES / PICTURE).read_bytes(), PROMPT)[0].text


def curl(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of a request by the real curl."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--write-out",
        "\n%{http_code}",
        *arguments,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    body, status = output.rsplit("\n", 1)
    return int(status), json.loads(body)


def template_curl(url: str, image_url: str, *extra: str) -> tuple[int, dict[str, Any]]:
    """The template's command with another host and another picture."""
    body = TEMPLATE_BODY.replace(TEMPLATE_IMAGE, image_url)
    headers = ["--header", "Content-Type: application/json"]
    headers += ["--header", "Authorization: Bearer <your_api_key>"]
    return curl("--location", url, *headers, *extra, "--data", body)


@pytest.mark.parametrize(
    "path", ["/infer", "/v2/models/scenes/infer", "/v2/models/scenes/versions/1/infer"]
)
def test_the_template_s_curl_works_unchanged(
    service: Service, image_url: str, caption: str, path: str
) -> None:
    status, body = template_curl(service.url + path, image_url)
    assert status == 200, body
    assert caption.startswith(PROMPT)
    output = {
        "name": "generated_output",
        "datatype": "BYTES",
        "shape": [1],
        "data": [caption],
    }
    assert body == {"model_name": "scenes", "model_version": "1", "outputs": [output]}


def test_rest_speaks_http_2_on_the_same_port(
    service: Service, image_url: str, caption: str
) -> None:
    _, body = template_curl(service.url + "/infer", image_url, "--http2-prior-knowledge")
    assert body["outputs"][0]["data"] == [caption]


def test_curl_reads_the_answer_to_an_oversize_body(service: Service, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b" " * (40 << 20))
    for version in ("--http1.1", "--http2-prior-knowledge"):
        for expect in ("Expect: 100-continue", "Expect:"):
            status, body = curl(
                version,
                "--header",
                expect,
                "--data-binary",
                f"@{large}",
                service.url + "/infer",
            )
            assert (status, body["error"]) == (
                413,
                "request body is larger than 33554432 bytes",
            )


def test_the_inferless_client_works_unchanged(
    service: Service, image_url: str, caption: str
) -> None:
    url = service.url + "/v2/models/scenes/versions/1/infer"
    data = {"img_url": image_url, "text": PROMPT}
    body = inferless.call(url=url, workspace_api_key="key", data=data)
    assert body["outputs"][0]["data"] == [caption]
    batch = inferless.call(url=url, workspace_api_key="key", data=data, is_batch=True)
    assert batch["outputs"][0] == {**body["outputs"][0], "shape": [1, 1]}
    typed = {**data, "num_beams": 3, "length_penalty": 0.5, "do_sample": False}
    assert inferless.call(url=url, workspace_api_key="key", data=typed)["outputs"][0]["data"]
    with pytest.raises(Exception, match="status code 400.*unexpected inference input 'img_ulr'"):
        inferless.call(url=url, workspace_api_key="key", data={"img_ulr": image_url})


def test_grpcio_gets_the_caption_and_the_details_of_mistakes(
    service: Service, image_url: str, caption: str
) -> None:
    request = service.messages.CaptionRequest(image_url=image_url, prompt=PROMPT, id="7")
    reply, call = service.stub.Caption.with_call(request, metadata=[("x-request-id", "abc")])
    assert (reply.id, reply.model, reply.model_version) == ("7", "scenes", "1")
    assert [each.text for each in reply.captions] == [caption]
    assert dict(call.initial_metadata())["x-request-id"] == "abc"
    with pytest.raises(grpc.RpcError) as failure:
        service.stub.Caption(service.messages.CaptionRequest(image=b"no picture"))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.value.details().startswith("image: ")


def test_a_grpc_deadline_is_kept(service: Service, image_url: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        request = service.messages.CaptionRequest(image_url=image_url)
        service.stub.Caption(request, timeout=0.000001)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_health_answers_check_and_watch(service: Service) -> None:
    stub = health_pb2_grpc.HealthStub(service.channel)
    request = health_pb2.HealthCheckRequest
    for name in ("", "blip.v1.CaptionService"):
        reply = stub.Check(request(service=name), timeout=HEALTH_SECONDS)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as failure:
        stub.Check(request(service="nobody"), timeout=HEALTH_SECONDS)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    for name, status in (("", "SERVING"), ("nobody", "SERVICE_UNKNOWN")):
        watch = stub.Watch(request(service=name), timeout=HEALTH_SECONDS)
        expected = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        assert next(watch).status == expected
        watch.cancel()


def test_reflection_describes_every_service(service: Service) -> None:
    database = ProtoReflectionDescriptorDatabase(service.channel)
    assert {"blip.v1.CaptionService", "grpc.health.v1.Health"} <= set(database.get_services())
    described = DescriptorPool(database).FindServiceByName("blip.v1.CaptionService")
    assert [method.name for method in described.methods] == ["Caption"]


def test_a_watcher_hears_of_the_end_and_the_process_ends_cleanly(
    tmp_path: Path,
) -> None:
    with Service(log=tmp_path / "service.log") as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        service.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert service.process.wait(HEALTH_SECONDS) == 0
