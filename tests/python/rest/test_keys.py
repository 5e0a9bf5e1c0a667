"""API keys: labels, digests in the file, rotation while the service runs, rate limits."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import grpc
import pytest
import requests

from service import Service, default_binary
from support.clients import picture
from support.metrics_page import FailedReload, samples, value

SECONDS = 20


def hash_key(label: str, key: str, *flags: str) -> str:
    """Returns the line of a key file for this key."""
    command = [default_binary(), "hash-key", label, "--stdin", *flags]
    return subprocess.run(command, input=key, capture_output=True, text=True, check=True).stdout


def post(service: Service, key: str) -> requests.Response:
    files = {"image": picture()}
    headers = {"authorization": f"Bearer {key}"}
    return requests.post(
        f"{service.url}/v1/captions", files=files, headers=headers, timeout=SECONDS
    )


def test_a_generated_key_is_accepted_and_its_line_holds_only_a_digest(tmp_path: Path) -> None:
    generated = subprocess.run(
        [default_binary(), "hash-key", "team-a"], capture_output=True, text=True, check=True
    )
    key = generated.stderr.strip().rsplit(" ", 1)[1]
    keys = tmp_path / "keys"
    keys.write_text(generated.stdout)
    assert key not in keys.read_text()
    with Service(log=tmp_path / "log", flags=(f"--api-keys-file={keys}",)) as service:
        assert post(service, key).status_code == 200
        refused = post(service, key[:-1])
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        request = service.messages.CaptionRequest(image=picture())
        metadata = [("authorization", f"Bearer {key}")]
        assert service.stub.Caption(request, metadata=metadata, timeout=SECONDS).captions
        with pytest.raises(grpc.RpcError) as failure:
            service.stub.Caption(request, timeout=SECONDS)
        assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
        page = requests.get(
            f"{service.url}/metrics", headers={"authorization": f"Bearer {key}"}, timeout=SECONDS
        )
        counted = [s for s in samples(page.text, "blip_requests_total") if s.labels["key"]]
        assert {s.labels["key"] for s in counted} == {"team-a"}
    assert key not in (tmp_path / "log").read_text()


def test_keys_change_while_the_service_runs(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hash_key("old", "first-key"))
    with Service(log=tmp_path / "log", flags=(f"--api-keys-file={keys}",)) as service:
        assert post(service, "first-key").status_code == 200
        keys.write_text(hash_key("old", "first-key") + hash_key("new", "second-key"))
        await_status(service, "second-key", 200)
        assert post(service, "first-key").status_code == 200
        (tmp_path / "next").write_text(hash_key("new", "second-key"))
        (tmp_path / "next").rename(keys)
        await_status(service, "first-key", 401)
        # An invalid file changes nothing.
        headers = {"authorization": "Bearer second-key"}
        failed = FailedReload(service.url, "keys", headers=headers)
        keys.write_text("\n")
        service.process.send_signal(signal.SIGHUP)
        failed.wait(SECONDS)
        assert post(service, "second-key").status_code == 200
    assert "the file holds no key" in (tmp_path / "log").read_text()


def await_status(service: Service, key: str, status: int) -> None:
    """Waits until requests with a key get this status; the service checks the file every two seconds."""
    give_up = time.monotonic() + SECONDS
    while post(service, key).status_code != status:
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_the_rate_limit_of_a_key_does_not_apply_to_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hash_key("slow", "slow-key", "--rate=0.1") + hash_key("free", "free-key"))
    with Service(log=tmp_path / "log", flags=(f"--api-keys-file={keys}",)) as service:
        assert post(service, "slow-key").status_code == 200
        refused = post(service, "slow-key")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert refused.json()["error"].startswith("the rate limit of this API key")
        assert {post(service, "free-key").status_code for _ in range(5)} == {200}
        # The rate limit does not apply to metadata.
        headers = {"authorization": "Bearer slow-key"}
        assert requests.get(f"{service.url}/v2", headers=headers, timeout=SECONDS).ok
        page = requests.get(f"{service.url}/metrics", headers=headers, timeout=SECONDS).text
        assert value(page, "blip_requests_total", key="slow", outcome="overloaded") == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("label:sha256:12", "sha256: must be followed by 64 hexadecimal digits"),
        ("se cret", "white space in a key"),
        ("", "the file holds no key"),
    ],
)
def test_an_invalid_key_file_fails_the_start_and_is_not_printed(
    tmp_path: Path, line: str, reason: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line + "\n")
    command = [default_binary(), "serve", "--listen=127.0.0.1:0", f"--api-keys-file={keys}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "--api-keys-file" in done.stderr
    assert reason in done.stderr
    assert "cret" not in done.stderr.replace("secret", "")
