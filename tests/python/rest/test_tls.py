"""TLS and mutual TLS for both transports on one port, and certificates that are replaced."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import grpc
import pytest
import requests

from service import Service, default_binary, free_port, stubs
from support.certificates import Authority, Signed
from support.clients import curl, picture
from support.metrics_page import FailedReload

SECONDS = 20


class SecureService(Service):
    """Is ready when its administrators' port says so."""

    def _wait(self) -> None:
        give_up = time.monotonic() + SECONDS
        while time.monotonic() < give_up:
            assert self.process.poll() is None, self.log.read_text() if self.log else ""
            try:
                if requests.get(f"{self.admin_url}/v2/health/ready", timeout=2).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        raise AssertionError("not ready")

    @property
    def admin_url(self) -> str:
        (flag,) = (flag for flag in self.flags if flag.startswith("--admin-listen="))
        return f"http://{flag.split('=')[1]}"


def start(tmp_path: Path, signed: Signed, *flags: str) -> SecureService:
    admin = f"--admin-listen=127.0.0.1:{free_port()}"
    files = (f"--tls-cert={signed.certificate}", f"--tls-key={signed.key}")
    return SecureService(log=tmp_path / "log", flags=(admin, *files, *flags))


def caption(service: Service, authority: Authority, client: Signed | None = None) -> str:
    """Over gRPC, in TLS."""
    own = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *own)
    messages, services = stubs()
    with grpc.secure_channel(service.address, credentials) as channel:
        stub = services.CaptionServiceStub(channel)
        reply = stub.Caption(messages.CaptionRequest(image=picture()), timeout=SECONDS)
        return reply.captions[0].text


def serial(service: Service) -> int:
    """Of the certificate that a new connection sees."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", service.port), SECONDS) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        return hash(wrapped.getpeercert(binary_form=True))


def test_both_transports_and_both_versions_of_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    with start(tmp_path, authority.sign("server")) as service:
        url = f"https://{service.address}/v1/captions"
        answer = requests.post(
            url, files={"image": picture()}, verify=str(authority.file), timeout=SECONDS
        )
        text = answer.json()["captions"][0]["text"]
        assert caption(service, authority) == text
        for version in ("--http1.1", "--http2"):
            status, body = curl(
                version, "--cacert", str(authority.file), f"https://{service.address}/v2"
            )
            assert (status, body["name"]) == (200, "scenes")
        # Plain HTTP gets no answer here, and a wrong authority none either.
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{service.address}/v2", timeout=SECONDS)
        with pytest.raises(requests.exceptions.SSLError):
            other = Authority(tmp_path, "other")
            requests.get(f"https://{service.address}/v2", verify=str(other.file), timeout=SECONDS)
        # Who says nothing after connecting does not keep others out.
        silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
        assert caption(service, authority) == text
        for connection in silent:
            connection.close()


def test_a_new_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    signed = authority.sign("server")
    with start(tmp_path, signed) as service:
        before = serial(service)
        # One file is there before the other: that pair is refused, the old one stays.
        fresh = authority.sign("fresh")
        failed = FailedReload(service.admin_url, "certificates")
        signed.certificate.write_bytes(fresh.certificate.read_bytes())
        service.process.send_signal(signal.SIGHUP)
        failed.wait(SECONDS)
        assert serial(service) == before
        signed.key.write_bytes(fresh.key.read_bytes())
        give_up = time.monotonic() + SECONDS
        while serial(service) == before:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        assert caption(service, authority)


def test_only_clients_with_a_certificate_come_in(tmp_path: Path) -> None:
    servers, clients = Authority(tmp_path, "ca"), Authority(tmp_path, "clients")
    flag = f"--tls-client-ca={clients.file}"
    with start(tmp_path, servers.sign("server"), flag) as service:
        assert caption(service, servers, clients.sign("friend"))
        for stranger in (None, servers.sign("stranger")):
            with pytest.raises(grpc.RpcError) as failure:
                caption(service, servers, stranger)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        # Probes have no certificate: they have a port of their own.
        assert requests.get(f"{service.admin_url}/v2/health/live", timeout=SECONDS).ok
        assert requests.get(f"{service.admin_url}/metrics", timeout=SECONDS).ok
        assert requests.post(f"{service.admin_url}/infer", timeout=SECONDS).status_code == 404


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tls-cert={cert}"], "--tls-key"),
        (["--tls-cert={cert}", "--tls-key={cert}"], "--tls-key"),
        (["--tls-cert={key}", "--tls-key={key}"], "--tls-cert"),
        (["--tls-cert={cert}", "--tls-key={other}"], "--tls-key"),
        (["--tls-cert={cert}", "--tls-key={key}", "--tls-client-ca={cert}"], "--admin-listen"),
    ],
)
def test_a_wrong_setting_fails_the_start_by_name(
    tmp_path: Path, flags: list[str], named: str
) -> None:
    authority = Authority(tmp_path, "ca")
    server, other = authority.sign("server"), authority.sign("other")
    names = {"cert": server.certificate, "key": server.key, "other": other.key}
    command = [default_binary(), "serve", "--listen=127.0.0.1:0"]
    command += [flag.format(**names) for flag in flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode != 0
    assert named in done.stderr
