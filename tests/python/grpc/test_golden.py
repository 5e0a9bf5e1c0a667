"""The captions of the running service equal tests/golden/captions.json, over gRPC and over REST."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from service import Service

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "captions.json").read_text("utf-8"))
CASES = GOLDEN["cases"]
MODEL = ROOT / "models" / "scenes"


def image(case: dict[str, Any]) -> bytes:
    return (ROOT / "examples" / "images" / case["image"]).read_bytes()


def name(case: dict[str, Any]) -> str:
    return f"{case['image']}-{case['prompt']}-{case['parameters']}"


def score_tolerance(caption: dict[str, Any]) -> float:
    manifest = json.loads((MODEL / "manifest.json").read_text("utf-8"))
    difference = manifest["verification"]["max_abs_logit_difference"]
    return 1e-4 * abs(caption["score"]) + 4 * difference * len(caption["token_ids"])


@pytest.mark.parametrize("case", CASES, ids=name)
def test_captions_over_grpc_equal_transformers(service: Service, case: dict[str, Any]) -> None:
    got = service.caption(image(case), case["prompt"], case["parameters"])
    assert [list(c.token_ids) for c in got] == [c["token_ids"] for c in case["captions"]]
    assert [c.text for c in got] == [c["text"] for c in case["captions"]]
    reasons = [service.finish_reason(c) for c in got]
    assert reasons == [c["finish_reason"] for c in case["captions"]]
    for actual, expected in zip(got, case["captions"], strict=True):
        assert abs(actual.score - expected["score"]) <= score_tolerance(expected)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_captions_over_rest_equal_transformers(service: Service, case: dict[str, Any]) -> None:
    encoded = base64.b64encode(image(case)).decode()
    inputs = [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded]}]
    if case["prompt"] is not None:
        text = {
            "name": "text",
            "shape": [1],
            "datatype": "BYTES",
            "data": [case["prompt"]],
        }
        inputs.append(text)
    answer = service.post("/infer", {"inputs": inputs, "parameters": case["parameters"]})
    output = answer["outputs"][0]
    assert output["name"] == "generated_output"
    assert output["shape"] == [len(case["captions"])]
    assert output["data"] == [c["text"] for c in case["captions"]]


def test_the_golden_file_belongs_to_the_model() -> None:
    weights = (MODEL / "checkpoint" / "model.safetensors").read_bytes()
    assert GOLDEN["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_golden_file_has_both_finish_reasons_and_at_least_fifty_cases() -> None:
    assert len(CASES) >= 50
    reasons = {c["finish_reason"] for case in CASES for c in case["captions"]}
    assert reasons == {"eos", "length"}
