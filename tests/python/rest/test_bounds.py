"""Limits that are settings: a request above one is refused by the limit's name, or disconnected."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service import Service
from support.clients import caption, picture, strings, tensors
from support.metrics_page import value

SECONDS = 20
FLAGS = (
    "--allow-private-networks",
    "--max-inflight-bytes=1000000",
    "--max-images=2",
    "--max-prompt-bytes=20",
    "--max-num-beams=3",
    "--max-num-return-sequences=2",
    "--max-generated-tokens=30",
    "--body-timeout=0.5",
    "--header-timeout=0.5",
    "--idle-timeout=1",
    "--max-connections=8",
    "--max-streams=2",
)


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(log=tmp_path_factory.mktemp("bounds") / "log", flags=FLAGS) as running:
        yield running


def infer(service: Service, **inputs: list[object]) -> requests.Response:
    body = {
        "inputs": [
            {
                "name": name,
                "shape": [len(data)],
                "data": data,
                "datatype": "INT64" if isinstance(data[0], int) else "BYTES",
            }
            for name, data in inputs.items()
        ]
    }
    return requests.post(f"{service.url}/infer", json=body, timeout=SECONDS)


IMAGE = base64.b64encode(picture()).decode()


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"image": [IMAGE] * 3}, "2 images"),
        ({"image": [IMAGE], "text": ["x" * 21]}, "text: must be at most 20 bytes, got 21"),
        ({"image": [IMAGE], "num_beams": [4]}, "num_beams: must be between 1 and 3, got 4"),
        (
            {"image": [IMAGE], "num_beams": [3], "num_return_sequences": [3]},
            "num_return_sequences: must be between 1 and 2, got 3",
        ),
        ({"image": [IMAGE], "max_new_tokens": [31]}, "max_new_tokens"),
    ],
)
def test_a_request_with_content_above_a_limit_is_refused(
    bounded: Service, inputs: dict[str, list[object]], named: str
) -> None:
    answer = infer(bounded, **inputs)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def count_overloaded(service: Service) -> float:
    page = requests.get(f"{service.url}/metrics", timeout=SECONDS).text
    return value(page, "blip_requests_total", surface="rest", outcome="overloaded")


def test_a_body_above_the_limit_of_bytes_in_flight_is_refused(bounded: Service) -> None:
    before = count_overloaded(bounded)
    for body in (b"x" * 1_000_001, (piece for piece in [b"x" * 600_000] * 2)):
        answer = requests.post(f"{bounded.url}/v1/captions", data=body, timeout=SECONDS)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "max_inflight_bytes" in answer.json()["error"]
    assert count_overloaded(bounded) - before == 2
    request = bounded.messages.CaptionRequest(image=bytes(1_000_001))
    # Compressed, it is one kilobyte in transit.
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as failure:
            bounded.stub.Caption(request, timeout=SECONDS, compression=compression)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_inflight_bytes" in failure.value.details()
    details = rpc_status.from_call(failure.value).details
    retry = [d for d in details if d.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    assert len(retry) == 1
    # Refused requests release their bytes: the next request fits.
    assert infer(bounded, image=[IMAGE]).status_code == 200
    assert bounded.caption(picture())


def test_a_stream_holds_the_bytes_of_its_unfinished_requests_only(bounded: Service) -> None:
    def requests_of(sizes: list[int]) -> Iterator[object]:
        for index, size in enumerate(sizes):
            image = picture() if size == 0 else bytes(size)
            yield bounded.messages.CaptionRequest(id=str(index), image=image)

    # Requests that fit one after the other, but not all at once.
    answers = list(bounded.stub.CaptionMany(requests_of([0] * 40), timeout=SECONDS))
    assert len(answers) == 40
    assert all(answer.WhichOneof("result") == "response" for answer in answers)
    with pytest.raises(grpc.RpcError) as failure:
        list(bounded.stub.CaptionMany(requests_of([1_000_001]), timeout=SECONDS))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_body_that_stalls_is_refused(bounded: Service) -> None:
    with socket.create_connection(("127.0.0.1", bounded.port), SECONDS) as client:
        client.sendall(b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"body_timeout" in answer


def test_a_slow_sender_gets_the_reason_of_its_refusal(bounded: Service) -> None:
    """It sends for longer than `body_timeout`; a closed connection would lose the response."""
    pieces = 14
    head = f"POST /infer HTTP/1.1\r\nhost: a\r\ncontent-length: {1_000_000 * pieces}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", bounded.port), timeout=SECONDS) as client:
        client.sendall(head.encode())
        for _ in range(pieces):
            client.sendall(b" " * 1_000_000)
            time.sleep(0.45)
        assert client.recv(1000).startswith(b"HTTP/1.1 429 ")


def test_a_refused_sender_that_stalls_gets_a_response(bounded: Service) -> None:
    """The response comes before `body_timeout` closes the connection."""
    with socket.create_connection(("127.0.0.1", bounded.port), timeout=SECONDS) as client:
        client.sendall(b"POST /infer HTTP/1.1\r\nhost: a\r\ncontent-length: 14000000\r\n\r\n ")
        assert client.recv(1000).startswith(b"HTTP/1.1 429 ")


def test_a_connection_without_a_complete_request_head_is_closed(bounded: Service) -> None:
    for start in (b"", b"GET / HT", b"PRI * HTTP/2.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", bounded.port), SECONDS) as client:
            client.sendall(start)
            while client.recv(4096):
                pass


def test_connections_above_the_limit_wait_until_idle_ones_are_closed(bounded: Service) -> None:
    def ask(client: socket.socket) -> bytes:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        return client.recv(15)

    held = [socket.create_connection(("127.0.0.1", bounded.port), SECONDS) for _ in range(12)]
    for client in held:
        client.settimeout(SECONDS)
    # Connections above the limit wait in the kernel until idle ones are closed; none is refused.
    assert {ask(client) for client in held} == {b"HTTP/1.1 200 OK"}
    for client in held:
        client.close()


def test_the_timeout_of_triton_clients_is_a_deadline(bounded: Service) -> None:
    http = tritonclient.http.InferenceServerClient(bounded.address)
    rpc = tritonclient.grpc.InferenceServerClient(bounded.address)
    arrays = {"image": strings(picture()), "text": strings("a photography of")}
    for client, module in ((http, tritonclient.http), (rpc, tritonclient.grpc)):
        inputs = tensors(module, arrays)
        answer = client.infer("scenes", inputs, timeout=60_000_000)
        assert answer.as_numpy("generated_output")[0].decode() == caption()
        arrays["min_new_tokens"] = np.array([29])
        with pytest.raises(tritonclient.grpc.InferenceServerException) as failure:
            client.infer("scenes", tensors(module, arrays), timeout=1)
        assert "deadline exceeded" in failure.value.message().lower()
        arrays.pop("min_new_tokens")


@pytest.mark.parametrize("value", [-1, 1.5, "soon", True])
def test_a_timeout_that_is_not_a_non_negative_integer_is_refused(
    bounded: Service, value: object
) -> None:
    body = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [IMAGE]}],
        "parameters": {"timeout": value},
    }
    answer = requests.post(f"{bounded.url}/infer", json=body, timeout=SECONDS)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("parameters.timeout: ")


def test_json_nested_too_deeply_is_refused(bounded: Service) -> None:
    answer = requests.post(
        f"{bounded.url}/infer", data="[" * 100_000 + "]" * 100_000, timeout=SECONDS
    )
    assert answer.status_code == 400


def test_permits_are_shared_between_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("heavy\nlight\n")
    flags = (f"--api-keys-file={keys}", "--queue-capacity=6", "--body-timeout=30")
    with Service(log=tmp_path / "log", flags=flags) as service:
        head = "POST /infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer heavy\r\ncontent-length: 9"
        held, statuses = [], []
        for _ in range(6):
            client = socket.create_connection(("127.0.0.1", service.port), SECONDS)
            # An admitted request gets 100 Continue, and holds a permit until its body arrives.
            client.sendall(f"{head}\r\nexpect: 100-continue\r\n\r\n".encode())
            statuses.append(client.recv(12))
            held.append(client)
        assert statuses == [b"HTTP/1.1 100"] * 3 + [b"HTTP/1.1 429"] * 3
        files, headers = {"image": picture()}, {"authorization": "Bearer light"}
        url = f"{service.url}/v1/captions"
        assert requests.post(url, files=files, headers=headers, timeout=SECONDS).status_code == 200
        for client in held:
            client.close()
