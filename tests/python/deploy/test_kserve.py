"""deploy/kserve against KServe's own descriptions of its objects, and the catalogues against the program."""

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


def unknown(value: dict[str, Any], kind: str) -> list[str]:
    """Fields that a type of KServe's or Kubernetes' does not have."""
    program = Path(__file__).parent / "kserve_fields.py"
    asked = json.dumps({"kind": kind, "value": value})
    done = subprocess.run([sys.executable, program, asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["serving-runtime.yaml", "inference-service.yaml"])
def test_every_field_is_one_of_kserve_s(name: str) -> None:
    found = [entry for entry in objects((FOLDER / name).read_text()) if entry["kind"] in MODELS]
    assert len(found) == 1
    for entry in found:
        assert unknown(entry, MODELS[entry["kind"]]) == []


def test_the_reader_of_fields_sees_a_mistake() -> None:
    entry = {"spec": {"containers": [{"nam": "x"}], "vols": []}}
    assert unknown(entry, "V1alpha1ServingRuntime") == [
        "r.spec.vols",
        "r.spec.containers[0].nam",
    ]


def test_the_service_runs_as_a_runtime_and_goes_to_zero() -> None:
    runtime = one(objects((FOLDER / "serving-runtime.yaml").read_text()), "ServingRuntime")["spec"]
    service = one(objects((FOLDER / "inference-service.yaml").read_text()), "InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == 0
    formats = {entry["name"] for entry in runtime["supportedModelFormats"]}
    assert predictor["model"]["modelFormat"]["name"] in formats
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    # Knative allows one port, and its own processes have these.
    (port,) = container["ports"]
    assert port["name"] == "h2c"
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    taken = {"8012", "8013", "8022", "9090", "9091"}
    assert values["BLIP_ADMIN_LISTEN"].rpartition(":")[2] not in taken
    assert container["securityContext"]["runAsNonRoot"] is True


def catalogues() -> dict[str, tuple[str, str]]:
    """Each catalogue of an image or manifest, and the folder in it that the embedded model stands in for."""
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
def test_every_catalogue_is_understood(tmp_path: Path, name: str) -> None:
    text, folder = catalogues()[name]
    assert folder in text
    text = text.replace(folder, str(ROOT / "models" / "scenes")).replace('"cuda"', '"cpu"')
    models = tmp_path / "models.toml"
    # The image for GPUs has both; a provider may not come twice.
    models.write_text(text.replace('["cpu", "cpu"]', '["cpu"]'))
    done = subprocess.run(
        [default_binary(), "check", "--models", models], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
