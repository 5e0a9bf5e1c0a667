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
from clients import picture
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service import Service

SECONDS = 20
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ready(service: Service) -> int:
    return requests.get(f"{service.url}/v2/health/ready", timeout=SECONDS).status_code


def post(service: Service) -> requests.Response:
    return requests.post(f"{service.url}/v1/captions", files={"image": picture()}, timeout=SECONDS)


def test_after_sigterm_new_clients_are_served_until_the_delay_is_over(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=("--drain-delay=2",)) as service:
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
            time.sleep(0.2)
            service.process.send_signal(signal.SIGINT)
            while ready_or_gone(service):
                time.sleep(0.02)
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(SECONDS) == 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


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
        time.sleep(0.05)
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
        # gRPC clients follow the GOAWAY and lose nothing.
        give_up = time.monotonic() + 3
        while time.monotonic() < give_up:
            assert service.caption(picture())
        page = requests.get(f"{service.url}/metrics", timeout=SECONDS).text
        accepted = next(
            line for line in page.splitlines() if line.startswith("blip_connections_total")
        )
        assert float(accepted.split()[1]) > 4


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
        statuses = set()
        while service.process.poll() is None:
            try:
                service.caption(picture())
                statuses.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                statuses.add(error.code())
        # After the end there is nobody to connect to; before, nothing was lost.
        assert statuses <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert grpc.StatusCode.OK in statuses
