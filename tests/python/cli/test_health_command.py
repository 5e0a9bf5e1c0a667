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
    """Runs the command with only these variables in its environment."""
    command = [str(default_binary()), "health", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


class LoadingHandler(BaseHTTPRequestHandler):
    """Answers as a service that is alive, but not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/health/live" else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def loading() -> Iterator[str]:
    """The address of a service that is loading its models."""
    with ThreadingHTTPServer(("127.0.0.1", 0), LoadingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_running_service_is_ready_and_live(service: Service) -> None:
    done = health("--address", service.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    done = health("--live", "--address", service.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "live\n", "")


def test_the_address_is_read_from_the_settings_of_the_service(service: Service) -> None:
    everywhere = f"0.0.0.0:{service.port}"
    assert health(BLIP_LISTEN=everywhere).returncode == 0
    # The admin port comes first: it needs neither TLS nor a key.
    elsewhere = f"127.0.0.1:{free_port()}"
    assert health(BLIP_LISTEN=elsewhere, BLIP_ADMIN_LISTEN=everywhere).returncode == 0
    assert health(BLIP_LISTEN=everywhere, BLIP_ADMIN_LISTEN=elsewhere).returncode == 1


def test_a_service_that_is_loading_is_live_but_not_ready(loading: str) -> None:
    assert health("--live", "--address", loading).returncode == 0
    done = health("--address", loading)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {loading}: not ready: 503 Service Unavailable\n"


def test_a_refused_connection_is_reported_in_one_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = health("--address", address)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {address}: Connection refused")
    assert done.stderr.count("\n") == 1


def test_a_service_that_does_not_respond_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = health("--timeout", "1", "--address", f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 1 and "timed out" in done.stderr


def test_proxies_of_the_environment_are_not_used(service: Service) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    assert health("--address", service.address, http_proxy=proxy, HTTP_PROXY=proxy).returncode == 0
