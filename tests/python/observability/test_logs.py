"""The log: one line per request, in text and in JSON, and no secret at any level."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from service import Service
from support.clients import MODEL, SECONDS, picture

KEY = "a-key-that-must-not-be-logged"
QUERY = "signature=that-must-not-be-logged"
SECRET_PROMPT = "zebra crossing"


def start(folder: Path, *flags: str) -> Service:
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    flags = ("--allow-private-networks", f"--api-keys-file={keys}", *flags)
    return Service(log=folder / "log", flags=flags)


def infer(service: Service, url: str, path: str = "/infer") -> requests.Response:
    """Sends a request with a secret in every field that may hold one."""
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in [("img_url", f"{url}?{QUERY}"), ("text", SECRET_PROMPT)]
    ]
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine"}
    body = {"inputs": inputs}
    return requests.post(
        f"{service.url}{path}?{QUERY}", json=body, headers=headers, timeout=SECONDS
    )


def access_lines(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines for requests of a log in JSON."""
    lines = map(json.loads, (folder / "log").read_text().splitlines())
    return [line for line in lines if line["target"] == "blip_serve::access"]


def test_a_request_is_one_line_of_text(tmp_path: Path, images_url: str) -> None:
    with start(tmp_path) as service:
        assert infer(service, f"{images_url}/cats.jpg").status_code == 200
    (line,) = (s for s in (tmp_path / "log").read_text().splitlines() if "request ended" in s)
    head, fields = line.split("request ended ")
    assert " INFO " in head and 'request{request_id="mine"}: blip_serve::access:' in head
    values = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', fields))
    label = values.pop("key")
    assert label.startswith('"') and KEY not in label
    assert float(values.pop("elapsed_ms")) > 0
    assert values == {
        "method": '"POST"',
        "path": '"/infer"',
        "status": "200",
        "model": f'"{MODEL}"',
        "outcome": '"ok"',
        "reason": '"OK"',
    }


def test_a_request_is_one_line_of_json(tmp_path: Path) -> None:
    with start(tmp_path, "--log-format=json") as service:
        assert infer(service, "http://127.0.0.1:9/x.png").status_code == 400
        request = service.messages.CaptionRequest(image=b"not an image")
        metadata = [("authorization", f"Bearer {KEY}"), ("x-request-id", "yours")]
        with pytest.raises(grpc.RpcError):
            service.stub.Caption(request, metadata=metadata, timeout=SECONDS)
        requests.get(f"{service.url}/v2/health/live", timeout=SECONDS)
        requests.get(f"{service.url}/v2", headers={"x-request-id": "none"}, timeout=SECONDS)
    rest, grpc_line, refused = access_lines(tmp_path)
    assert (rest["level"], rest["span"]["request_id"], rest["status"]) == ("INFO", "mine", 400)
    assert (rest["method"], rest["path"], rest["model"]) == ("POST", "/infer", MODEL)
    assert (rest["outcome"], rest["reason"]) == ("client_error", "IMAGE_URL_REFUSED")
    assert rest["elapsed_ms"] > 0 and "grpc_status" not in rest
    assert grpc_line["path"] == "/blip.v1.CaptionService/Caption"
    assert (grpc_line["status"], grpc_line["grpc_status"]) == (200, 3)
    assert grpc_line["span"]["request_id"] == "yours"
    assert (refused["status"], refused["reason"]) == (401, "UNAUTHENTICATED")
    assert "key" not in refused and "model" not in refused


def test_probes_are_logged_at_debug_level_only(tmp_path: Path) -> None:
    with start(tmp_path, "--log-format=json", "--log=blip_serve=debug") as service:
        requests.get(f"{service.url}/v2/health/live", timeout=SECONDS)
    paths = {(line["path"], line["level"]) for line in access_lines(tmp_path)}
    assert ("/v2/health/live", "DEBUG") in paths


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_line_of_a_request_has_its_id(tmp_path: Path, form: str) -> None:
    with start(tmp_path, "--log=warn,blip_serve=debug", f"--log-format={form}") as service:
        request = service.messages.CaptionRequest(image=picture())
        metadata = [("authorization", f"Bearer {KEY}"), ("x-request-id", "yours")]
        bad = service.messages.CaptionRequest(image=b"not an image")
        other = service.messages.CaptionRequest(image=picture("flower.gif"))
        many = iter([request, bad, other])
        replies = list(service.stub.CaptionMany(many, metadata=metadata, timeout=SECONDS))
        assert len(replies) == 3
    lines = (tmp_path / "log").read_text().splitlines()
    for message, count in [("image encoded", 2), ("request refused", 1), ("request ended", 1)]:
        mine = [line for line in lines if message in line and "yours" in line]
        # The self-test image has no request id, and probes have other ids.
        assert len(mine) == count, message


def test_a_client_cannot_forge_log_lines(tmp_path: Path) -> None:
    forged = "2026-01-01T00:00:00Z  INFO forged"
    headers = {"authorization": f"Bearer {KEY}"}
    with start(tmp_path) as service:
        body = {"image": b64encode(picture()).decode(), f"x\n{forged}": 1}
        url = f"{service.url}/v1/captions"
        assert requests.post(url, json=body, headers=headers, timeout=SECONDS).status_code == 400
    lines = (tmp_path / "log").read_text().splitlines()
    assert not [line for line in lines if line.startswith(forged)]
    assert any("forged" in line for line in lines)


@pytest.mark.parametrize("level", ["info", "trace"])
def test_no_secret_is_logged_at_any_level(tmp_path: Path, images_url: str, level: str) -> None:
    with start(tmp_path, f"--log={level}") as service:
        assert infer(service, f"{images_url}/cats.jpg").status_code == 200
        assert infer(service, "http://127.0.0.1:9/x.png").status_code == 400
        assert infer(service, "http://no-such-host.invalid/x.png").status_code == 400
        assert infer(service, "ftp://127.0.0.1/x.png").status_code == 400
        assert infer(service, f"{images_url}/cats.jpg", "/nowhere").status_code == 404
        request = service.messages.CaptionRequest(image=picture(), prompt=SECRET_PROMPT)
        metadata = [("authorization", f"Bearer {KEY}")]
        service.stub.Caption(request, metadata=metadata, timeout=SECONDS)
    log = (tmp_path / "log").read_text()
    assert "request ended" in log
    for secret in [KEY, QUERY, QUERY.split("=")[1], SECRET_PROMPT]:
        leaked = [line for line in log.splitlines() if secret in line]
        assert not leaked, leaked[:3]
