"""TLS and mutual TLS for both transports on one port, and the replacement of certificates."""

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
from support.certificates import CertificateAuthority, CertificateFiles
from support.clients import curl, picture
from support.metrics_page import FailedReload

SECONDS = 20


class SecureService(Service):
    """A service with TLS, whose readiness is checked on the admin port."""

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


def start(tmp_path: Path, files: CertificateFiles, *flags: str) -> SecureService:
    admin = f"--admin-listen=127.0.0.1:{free_port()}"
    tls_flags = (f"--tls-cert={files.certificate}", f"--tls-key={files.key}")
    return SecureService(log=tmp_path / "log", flags=(admin, *tls_flags, *flags))


def caption(
    service: Service, authority: CertificateAuthority, client: CertificateFiles | None = None
) -> str:
    """Requests a caption over gRPC with TLS."""
    identity = (
        (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    )
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *identity)
    messages, services = stubs()
    with grpc.secure_channel(service.address, credentials) as channel:
        stub = services.CaptionServiceStub(channel)
        reply = stub.Caption(messages.CaptionRequest(image=picture()), timeout=SECONDS)
        return reply.captions[0].text


def certificate_hash(service: Service) -> int:
    """Returns a hash of the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", service.port), SECONDS) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        return hash(wrapped.getpeercert(binary_form=True))


def test_tls_serves_both_transports_and_both_versions_of_http(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path, "ca")
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
        # Plain HTTP gets no response, and a client that trusts another authority fails.
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{service.address}/v2", timeout=SECONDS)
        with pytest.raises(requests.exceptions.SSLError):
            other = CertificateAuthority(tmp_path, "other")
            requests.get(f"https://{service.address}/v2", verify=str(other.file), timeout=SECONDS)
        # Connections without a handshake do not block others.
        silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
        assert caption(service, authority) == text
        for connection in silent:
            connection.close()


def test_a_new_certificate_is_loaded_without_a_restart(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path, "ca")
    files = authority.sign("server")
    with start(tmp_path, files) as service:
        before = certificate_hash(service)
        # A new certificate with the old key is refused: the old pair stays in use.
        fresh = authority.sign("fresh")
        failed = FailedReload(service.admin_url, "certificates")
        files.certificate.write_bytes(fresh.certificate.read_bytes())
        service.process.send_signal(signal.SIGHUP)
        failed.wait(SECONDS)
        assert certificate_hash(service) == before
        files.key.write_bytes(fresh.key.read_bytes())
        give_up = time.monotonic() + SECONDS
        while certificate_hash(service) == before:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        assert caption(service, authority)


def test_mutual_tls_refuses_clients_without_a_valid_certificate(tmp_path: Path) -> None:
    servers, clients = (
        CertificateAuthority(tmp_path, "ca"),
        CertificateAuthority(tmp_path, "clients"),
    )
    flag = f"--tls-client-ca={clients.file}"
    with start(tmp_path, servers.sign("server"), flag) as service:
        assert caption(service, servers, clients.sign("client"))
        for untrusted in (None, servers.sign("untrusted")):
            with pytest.raises(grpc.RpcError) as failure:
                caption(service, servers, untrusted)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        # Probes have no certificate: they use the admin port.
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
def test_an_invalid_tls_setting_fails_the_start_by_name(
    tmp_path: Path, flags: list[str], named: str
) -> None:
    authority = CertificateAuthority(tmp_path, "ca")
    server, other = authority.sign("server"), authority.sign("other")
    names = {"cert": server.certificate, "key": server.key, "other": other.key}
    command = [default_binary(), "serve", "--listen=127.0.0.1:0"]
    command += [flag.format(**names) for flag in flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode != 0
    assert named in done.stderr
