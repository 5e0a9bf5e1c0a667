"""Shutdown and liveness: which requests are served, refused or waited for after a signal."""

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


def ready_status(service: Service) -> int:
    return requests.get(f"{service.url}/v2/health/ready", timeout=SECONDS).status_code


def post(service: Service) -> requests.Response:
    return requests.post(f"{service.url}/v1/captions", files={"image": picture()}, timeout=SECONDS)


def test_after_sigterm_new_clients_are_served_until_the_drain_delay_ends(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=4",)) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        next(watch)
        assert ready_status(service) == 200
        service.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert ready_status(service) == 503
        assert requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).status_code == 200
        # Over a new connection, and over the existing channel.
        assert post(service).status_code == 200
        assert service.caption(picture())
        assert service.process.wait(SECONDS) == 0
        assert [status.status for status in watch] == []


def test_sigint_skips_the_drain_delay(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=60",)) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(SECONDS) == 0


def test_a_second_sigint_ends_the_service_at_once(tmp_path: Path) -> None:
    service = Service(log=tmp_path / "log", flags=("--shutdown-grace=600",))
    try:
        with service:
            slow = socket.create_connection(("127.0.0.1", service.port))
            slow.sendall(b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{")
            wait_until_in_flight(service)
            service.process.send_signal(signal.SIGINT)
            while is_ready(service):
                time.sleep(0.02)
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(SECONDS) == 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def page(service: Service) -> str:
    return requests.get(f"{service.url}/metrics", timeout=SECONDS).text


def wait_until_in_flight(service: Service, thread: threading.Thread | None = None) -> None:
    """Waits until a request is in flight, or its thread has ended."""
    give_up = time.monotonic() + SECONDS
    while value(page(service), "blip_requests_in_flight") == 0:
        assert time.monotonic() < give_up
        if thread and not thread.is_alive():
            break


def is_ready(service: Service) -> bool:
    try:
        return ready_status(service) == 200
    except requests.ConnectionError:
        return False


def test_shutdown_waits_for_the_request_in_flight_but_not_for_an_idle_connection(
    tmp_path: Path,
) -> None:
    with Service(log=tmp_path / "log") as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
        connection.request("GET", "/v2")
        assert connection.getresponse().read()
        answers: list[object] = []

        def ask() -> None:
            request = service.messages.CaptionRequest(image=picture())
            request.parameters.max_new_tokens = request.parameters.min_new_tokens = 40
            request.parameters.num_beams = 8
            answers.append(service.stub.Caption(request, timeout=SECONDS).captions)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until_in_flight(service, thread)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS) == 0
        thread.join()
        assert answers


def test_connections_are_closed_at_their_maximum_age(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--connection-age=0.5",)) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read()
        assert connection.sock is not None
        connection.sock.settimeout(SECONDS)
        assert connection.sock.recv(1) == b""
        # gRPC clients follow the GOAWAY and lose no request. Each request for the metrics is a connection, too.
        before, scrapes, accepted = count_connections(service), 0, 0.0
        give_up = time.monotonic() + SECONDS
        while accepted < 3:
            assert time.monotonic() < give_up
            for _ in range(20):
                assert service.caption(picture())
            scrapes += 1
            accepted = count_connections(service) - before - scrapes


def count_connections(service: Service) -> float:
    return value(page(service), "blip_connections_total")


def test_liveness_fails_while_the_engine_is_stuck(tmp_path: Path) -> None:
    # With a limit this short the watchdog takes every run for a stuck one.
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
        # The engine ends its run a moment after the last answer.
        end = time.monotonic() + SECONDS
        while requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).status_code != 200:
            assert time.monotonic() < end, "the service stays unhealthy"


def test_grpc_clients_get_goaway_and_no_error_during_the_drain_delay(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=0.5",)) as service:
        service.process.send_signal(signal.SIGTERM)
        answered, errors = 0, []
        while service.process.poll() is None:
            try:
                answered += len(service.caption(picture()))
            except grpc.RpcError as error:
                errors.append(error)
        assert answered
        # No request was lost: the only errors are failed connections after the exit.
        assert {error.code() for error in errors} <= {grpc.StatusCode.UNAVAILABLE}
        assert all("failed to connect" in error.details() for error in errors)


def test_the_process_restarts_with_the_environment_that_its_libraries_need(tmp_path: Path) -> None:
    preset = {"MALLOC_ARENA_MAX": "7"}
    with Service(log=tmp_path / "log", environment=preset) as service:
        lines = Path(f"/proc/{service.process.pid}/environ").read_bytes().decode().split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert (
        environment["MALLOC_MMAP_THRESHOLD_"] == environment["MALLOC_TRIM_THRESHOLD_"] == "131072"
    )
    # A variable that the operator has set is kept.
    assert environment["MALLOC_ARENA_MAX"] == "7"
