"""From SIGTERM to the end: who is turned away, who is served, who is waited for."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from pathlib import Path

import grpc
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import Service
from support.clients import picture
from support.metrics_page import value

SECONDS = 20
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ready(service: Service) -> int:
    return requests.get(f"{service.url}/v2/health/ready", timeout=SECONDS).status_code


def post(service: Service) -> requests.Response:
    return requests.post(f"{service.url}/v1/captions", files={"image": picture()}, timeout=SECONDS)


def test_after_sigterm_new_clients_are_served_until_the_delay_is_over(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=4",)) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        next(watch)
        assert ready(service) == 200
        service.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert ready(service) == 503
        assert requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).status_code == 200
        # A new connection, and the old channel.
        assert post(service).status_code == 200
        assert service.caption(picture())
        assert service.process.wait(SECONDS) == 0
        assert [status.status for status in watch] == []


def test_an_interrupt_does_not_wait(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=60",)) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(SECONDS) == 0


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    service = Service(log=tmp_path / "log", flags=("--shutdown-grace=600",))
    try:
        with service:
            slow = socket.create_connection(("127.0.0.1", service.port))
            slow.sendall(b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{")
            until_in_flight(service)
            service.process.send_signal(signal.SIGINT)
            while ready_or_gone(service):
                time.sleep(0.02)
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(SECONDS) == 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def page(service: Service) -> str:
    return requests.get(f"{service.url}/metrics", timeout=SECONDS).text


def until_in_flight(service: Service, thread: threading.Thread | None = None) -> None:
    """Until a request has its place, or its thread is through."""
    give_up = time.monotonic() + SECONDS
    while value(page(service), "blip_requests_in_flight") == 0:
        assert time.monotonic() < give_up
        if thread and not thread.is_alive():
            break


def ready_or_gone(service: Service) -> bool:
    try:
        return ready(service) == 200
    except requests.ConnectionError:
        return False


def test_a_kept_connection_ends_with_its_request(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        kept = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
        kept.request("GET", "/v2")
        assert kept.getresponse().read()
        answers: list[object] = []

        def ask() -> None:
            request = service.messages.CaptionRequest(image=picture())
            request.parameters.max_new_tokens = request.parameters.min_new_tokens = 40
            request.parameters.num_beams = 8
            answers.append(service.stub.Caption(request, timeout=SECONDS).captions)

        thread = threading.Thread(target=ask)
        thread.start()
        until_in_flight(service, thread)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS) == 0
        thread.join()
        assert answers


def test_old_connections_are_told_to_come_back(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--connection-age=0.5",)) as service:
        kept = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
        kept.request("GET", "/v2/health/live")
        assert kept.getresponse().read()
        assert kept.sock is not None
        kept.sock.settimeout(SECONDS)
        assert kept.sock.recv(1) == b""
        # gRPC clients follow the GOAWAY and lose nothing. Each look at the page is a connection, too.
        before, looks, accepted = accepted_by(service), 0, 0.0
        give_up = time.monotonic() + SECONDS
        while accepted < 3:
            assert time.monotonic() < give_up
            for _ in range(20):
                assert service.caption(picture())
            looks += 1
            accepted = accepted_by(service) - before - looks


def accepted_by(service: Service) -> float:
    return value(page(service), "blip_connections_total")


def test_a_stuck_engine_shows_in_liveness(tmp_path: Path) -> None:
    # With a watchdog that no real run can satisfy, every run is one that is stuck.
    with Service(log=tmp_path / "log", flags=("--watchdog=0.00001",)) as service:
        seen, done = set(), threading.Event()

        def ask() -> None:
            while not done.is_set():
                seen.add(requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        for beams in range(2, 12):
            service.caption(picture(), parameters={"num_beams": beams, "min_new_tokens": 20})
        done.set()
        thread.join()
        assert 503 in seen
        assert requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).status_code == 200


def test_grpc_hears_goaway_and_not_an_error(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=0.5",)) as service:
        service.process.send_signal(signal.SIGTERM)
        answered, errors = 0, []
        while service.process.poll() is None:
            try:
                answered += len(service.caption(picture()))
            except grpc.RpcError as error:
                errors.append(error)
        assert answered
        # Nothing was lost: there was nobody to connect to any more.
        assert {error.code() for error in errors} <= {grpc.StatusCode.UNAVAILABLE}
        assert all("failed to connect" in error.details() for error in errors)


def test_libraries_are_told_what_only_the_environment_can_say(tmp_path: Path) -> None:
    own = {"MALLOC_ARENA_MAX": "7"}
    with Service(log=tmp_path / "log", environment=own) as service:
        lines = Path(f"/proc/{service.process.pid}/environ").read_bytes().decode().split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert (
        environment["MALLOC_MMAP_THRESHOLD_"] == environment["MALLOC_TRIM_THRESHOLD_"] == "131072"
    )
    # What an operator has set stays.
    assert environment["MALLOC_ARENA_MAX"] == "7"
