"""`blip-serve health`, which a container's health check runs."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service import Service, default_binary, free_port


def health(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with nothing else in its environment."""
    command = [str(default_binary()), "health", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


class Loading(BaseHTTPRequestHandler):
    """Alive, but not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/health/live" else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def loading() -> Iterator[str]:
    """Address of a service that still loads its models."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Loading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_running_service_is_ready_and_live(service: Service) -> None:
    done = health("--address", service.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    done = health("--live", "--address", service.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "live\n", "")


def test_it_finds_the_service_by_the_service_s_own_settings(service: Service) -> None:
    everywhere = f"0.0.0.0:{service.port}"
    assert health(BLIP_LISTEN=everywhere).returncode == 0
    # Health is asked where it needs no TLS and no key.
    elsewhere = f"127.0.0.1:{free_port()}"
    assert health(BLIP_LISTEN=elsewhere, BLIP_ADMIN_LISTEN=everywhere).returncode == 0
    assert health(BLIP_LISTEN=everywhere, BLIP_ADMIN_LISTEN=elsewhere).returncode == 1


def test_a_service_that_loads_is_alive_but_not_ready(loading: str) -> None:
    assert health("--live", "--address", loading).returncode == 0
    done = health("--address", loading)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {loading}: not ready: 503 Service Unavailable\n"


def test_nobody_there_is_said_in_one_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = health("--address", address)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {address}: Connection refused")
    assert done.stderr.count("\n") == 1


def test_a_service_that_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        done = health("--timeout", "1", "--address", f"127.0.0.1:{mute.getsockname()[1]}")
    assert done.returncode == 1 and "timed out" in done.stderr


def test_proxies_of_the_environment_are_not_asked(service: Service) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    assert health("--address", service.address, http_proxy=proxy, HTTP_PROXY=proxy).returncode == 0
