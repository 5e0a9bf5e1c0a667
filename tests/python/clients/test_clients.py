"""The service with the clients of its users: curl, the Inferless client, grpcio.

A client that is not installed fails these tests; none is skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import inferless
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service import Service
from support.clients import MODEL, PICTURE, PROMPT, SECONDS, caption, curl

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


@pytest.fixture
def image_url(images_url: str) -> str:
    return f"{images_url}/{PICTURE}"


def template_curl(url: str, image_url: str, *extra: str) -> tuple[int, dict[str, Any]]:
    """Runs the template's command with another host and another image."""
    body = TEMPLATE_BODY.replace(TEMPLATE_IMAGE, image_url)
    headers = ["--header", "Content-Type: application/json"]
    headers += ["--header", "Authorization: Bearer <your_api_key>"]
    return curl("--location", url, *headers, *extra, "--data", body)


@pytest.mark.parametrize(
    "path", ["/infer", "/v2/models/scenes/infer", "/v2/models/scenes/versions/1/infer"]
)
def test_the_curl_command_of_the_template_works_unchanged(
    service: Service, image_url: str, path: str
) -> None:
    status, body = template_curl(service.url + path, image_url)
    assert status == 200, body
    assert caption().startswith(PROMPT)
    output = {"name": "generated_output", "datatype": "BYTES", "shape": [1], "data": [caption()]}
    assert body == {"model_name": MODEL, "model_version": "1", "outputs": [output]}


def test_rest_supports_http_2_on_the_same_port(service: Service, image_url: str) -> None:
    _, body = template_curl(service.url + "/infer", image_url, "--http2-prior-knowledge")
    assert body["outputs"][0]["data"] == [caption()]


def test_curl_gets_the_response_to_an_oversize_body(service: Service, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b" " * (40 << 20))
    for version in ("--http1.1", "--http2-prior-knowledge"):
        for expect in ("Expect: 100-continue", "Expect:"):
            data = ["--data-binary", f"@{large}", service.url + "/infer"]
            status, body = curl(version, "--header", expect, *data)
            assert status == 413
            assert body["error"] == "request body is larger than 33554432 bytes"


def test_the_inferless_client_works_unchanged(service: Service, image_url: str) -> None:
    url = service.url + "/v2/models/scenes/versions/1/infer"
    data = {"img_url": image_url, "text": PROMPT}
    body = inferless.call(url=url, workspace_api_key="key", data=data)
    assert body["outputs"][0]["data"] == [caption()]
    batch = inferless.call(url=url, workspace_api_key="key", data=data, is_batch=True)
    assert batch["outputs"][0] == {**body["outputs"][0], "shape": [1, 1]}
    parameters = {**data, "num_beams": 3, "length_penalty": 0.5, "do_sample": False}
    assert inferless.call(url=url, workspace_api_key="key", data=parameters)["outputs"][0]["data"]
    with pytest.raises(Exception, match="status code 400.*unexpected inference input 'img_ulr'"):
        inferless.call(url=url, workspace_api_key="key", data={"img_ulr": image_url})


def test_grpcio_gets_the_caption(service: Service, image_url: str) -> None:
    request = service.messages.CaptionRequest(image_url=image_url, prompt=PROMPT, id="7")
    metadata = [("x-request-id", "abc")]
    reply, call = service.stub.Caption.with_call(request, metadata=metadata, timeout=SECONDS)
    assert (reply.id, reply.model, reply.model_version) == ("7", MODEL, "1")
    assert [each.text for each in reply.captions] == [caption()]
    assert dict(call.initial_metadata())["x-request-id"] == "abc"


def test_grpcio_gets_the_details_of_an_error(service: Service) -> None:
    request = service.messages.CaptionRequest(image=b"not an image")
    with pytest.raises(grpc.RpcError) as failure:
        service.stub.Caption(request, metadata=[("x-request-id", "abc")], timeout=SECONDS)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.value.details().startswith("image: ")
    status = rpc_status.from_call(failure.value)
    details = {}
    for kind in ("BadRequest", "ErrorInfo", "RequestInfo"):
        message = getattr(error_details_pb2, kind)()
        assert any(detail.Unpack(message) for detail in status.details), kind
        details[kind] = message
    assert [each.field for each in details["BadRequest"].field_violations] == ["image"]
    assert details["ErrorInfo"].reason
    assert details["RequestInfo"].request_id == "abc"


def test_a_grpc_deadline_is_enforced(service: Service, image_url: str) -> None:
    # A long caption that no other test requests: a cached one would come in time.
    long = {"min_new_tokens": 118, "max_new_tokens": 118}
    request = service.messages.CaptionRequest(image_url=image_url, parameters=long)
    with pytest.raises(grpc.RpcError) as failure:
        service.stub.Caption(request, timeout=0.000001)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_refused_request_is_found_in_the_log_by_its_id(service: Service) -> None:
    status, _ = curl("--data", "{}", "-H", "x-request-id: find-rest", service.url + "/infer")
    assert status == 400
    with pytest.raises(grpc.RpcError):
        request = service.messages.CaptionRequest()
        service.stub.Caption(request, metadata=[("x-request-id", "find-grpc")], timeout=SECONDS)
    log = service.log.read_text()
    assert "find-rest" in log and "find-grpc" in log
