"""KServe's InferenceRESTClient and InferenceGRPCClient, unmodified, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import Service
from support.clients import MODEL, PICTURES, SECONDS, caption

SURFACES = ["rest", "grpc"]


@pytest.fixture(scope="module")
def answers(service: Service, images_url: str) -> dict[str, Any]:
    """The output of kserve_client.py over REST and over gRPC."""
    program = Path(__file__).parent / "kserve_client.py"
    command = [sys.executable, str(program), service.address, images_url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("surface", SURFACES)
def test_the_server_and_the_model_are_ready(answers: dict[str, Any], surface: str) -> None:
    seen = answers[surface]
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["unknown_ready"] == {"rest": False, "grpc": "NOT_FOUND"}[surface]


@pytest.mark.parametrize("surface", SURFACES)
def test_urls_and_files_are_captioned(answers: dict[str, Any], surface: str) -> None:
    captions = [caption(name) for name in PICTURES]
    assert len(answers[surface]["answers"]) == 3
    for answer in answers[surface]["answers"]:
        assert (answer["id"], answer["model"]) == ("7", MODEL)
        assert answer["outputs"]["generated_output"] == captions
    *_, with_outputs = answers[surface]["answers"]
    assert list(with_outputs["outputs"]) == ["generated_output", "score"]
    assert all(isinstance(score, float) for score in with_outputs["outputs"]["score"])


def test_an_unknown_model_is_not_found(answers: dict[str, Any]) -> None:
    unknown = "Request for unknown model: 'none' is not found"
    status, message = answers["rest"]["failure"]
    assert status == 404 and unknown in message
    assert answers["grpc"]["failure"] == ["NOT_FOUND", unknown]
