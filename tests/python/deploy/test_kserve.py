"""deploy/kserve agrees with KServe's descriptions of its objects, and the program accepts all catalogues."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import ROOT, default_binary
from support.deploy.manifests import objects, one

FOLDER = ROOT / "deploy" / "kserve"
MODELS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


def unknown_fields(value: dict[str, Any], kind: str) -> list[str]:
    """Returns the fields that a type of KServe or Kubernetes does not have."""
    program = Path(__file__).parent / "kserve_fields.py"
    request = json.dumps({"kind": kind, "value": value})
    done = subprocess.run([sys.executable, program, request], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["serving-runtime.yaml", "inference-service.yaml"])
def test_every_field_is_known_to_kserve(name: str) -> None:
    found = [entry for entry in objects((FOLDER / name).read_text()) if entry["kind"] in MODELS]
    assert len(found) == 1
    for entry in found:
        assert unknown_fields(entry, MODELS[entry["kind"]]) == []


def test_an_unknown_field_is_detected() -> None:
    entry = {"spec": {"containers": [{"nam": "x"}], "vols": []}}
    assert unknown_fields(entry, "V1alpha1ServingRuntime") == [
        "r.spec.vols",
        "r.spec.containers[0].nam",
    ]


def test_the_runtime_serves_its_format_and_scales_to_zero() -> None:
    runtime = one(objects((FOLDER / "serving-runtime.yaml").read_text()), "ServingRuntime")["spec"]
    service = one(objects((FOLDER / "inference-service.yaml").read_text()), "InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == 0
    formats = {entry["name"] for entry in runtime["supportedModelFormats"]}
    assert predictor["model"]["modelFormat"]["name"] in formats
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    # Knative allows one port, and its processes use these.
    (port,) = container["ports"]
    assert port["name"] == "h2c"
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    reserved = {"8012", "8013", "8022", "9090", "9091"}
    assert values["BLIP_ADMIN_LISTEN"].rpartition(":")[2] not in reserved
    assert container["securityContext"]["runAsNonRoot"] is True


def catalogues() -> dict[str, tuple[str, str]]:
    """Returns the catalogues of images and manifests, each with the folder that the embedded model replaces."""
    container = ROOT / "deploy" / "container"
    kserve_map = one(objects((FOLDER / "serving-runtime.yaml").read_text()), "ConfigMap")
    texts = {
        "cpu image": ((container / "cpu.toml").read_text(), "/models/scenes"),
        "cuda image": ((container / "cuda.toml").read_text(), "/models/scenes"),
        "kserve": (kserve_map["data"]["models.toml"], "/mnt/models"),
    }
    for name, folder in (("cpu", "/models/scenes"), ("gpu", "/bundles/blip-large")):
        found = objects((ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text())
        texts[name] = (one(found, "ConfigMap", "-catalogue")["data"]["models.toml"], folder)
    return texts


@pytest.mark.parametrize("name", catalogues())
def test_every_catalogue_is_accepted(tmp_path: Path, name: str) -> None:
    text, folder = catalogues()[name]
    assert folder in text
    text = text.replace(folder, str(ROOT / "models" / "scenes")).replace('"cuda"', '"cpu"')
    models = tmp_path / "models.toml"
    # The image for GPUs has both providers; a provider must not occur twice.
    models.write_text(text.replace('["cpu", "cpu"]', '["cpu"]'))
    done = subprocess.run(
        [default_binary(), "check", "--models", models], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
