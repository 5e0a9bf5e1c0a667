"""The Helm chart: rendered by Helm, validated against Kubernetes' schemas and the rules for pods."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from release import manifests
from release.manifests import CHART, HELM, NAME, OUTPUT
from support.deploy.chart import VALUES, pod_spec, render, render_error
from support.deploy.manifests import check_pod, environment, objects, one, pods, validate


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_renders_and_its_pods_are_restricted(tmp_path: Path, name: str) -> None:
    found = render(tmp_path, VALUES[name])
    assert validate(found) >= 6
    specs = list(pods(found))
    # The pods of the service and of the Helm test.
    assert len(specs) == 2
    for spec in specs:
        check_pod(spec)


@pytest.mark.parametrize("values", ["cpu", "gpu"])
def test_helm_lint_passes(values: str) -> None:
    command = [HELM, "lint", "--strict", CHART, "--values", CHART / f"values-{values}.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_manifests_are_rendered_from_the_chart() -> None:
    rendered = manifests.render()
    assert rendered
    for name, text in rendered.items():
        assert (OUTPUT / name).read_text() == text, f"{name}: make manifests"


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml"])
def test_the_manifests_need_no_operator(name: str) -> None:
    found = objects((OUTPUT / name).read_text())
    assert validate(found) == len(found) >= 8
    assert one(found, "Namespace")["metadata"]["name"] == NAME
    check_pod(pod_spec(found))


@pytest.mark.parametrize("name", VALUES)
def test_the_pod_is_not_killed_before_the_service_has_drained(tmp_path: Path, name: str) -> None:
    spec = pod_spec(render(tmp_path, VALUES[name]))
    container, settings = spec["containers"][0], environment(spec)
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = sleep + float(settings["BLIP_DRAIN_DELAY"]) + float(settings["BLIP_SHUTDOWN_GRACE"])
    assert needed < spec["terminationGracePeriodSeconds"] < needed + 10


def test_probes_use_the_admin_port_and_readiness_fails_before_liveness(tmp_path: Path) -> None:
    container = pod_spec(render(tmp_path, VALUES["tls"]))["containers"][0]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert all(probe["httpGet"]["port"] == "admin" for probe in probes.values())
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    ready, live = "/v2/health/ready", "/v2/health/live"
    assert paths == {"startup": ready, "readiness": ready, "liveness": live}
    tolerated_seconds = {n: p["periodSeconds"] * p["failureThreshold"] for n, p in probes.items()}
    assert (
        tolerated_seconds["startup"] == 300
        and tolerated_seconds["readiness"] < tolerated_seconds["liveness"]
    )


def test_settings_become_environment_variables_of_the_service(tmp_path: Path) -> None:
    settings = environment(pod_spec(render(tmp_path, VALUES["everything else"])))
    assert settings["BLIP_MAX_IMAGE_PIXELS"] == "89478485"
    assert settings["BLIP_SHUTDOWN_GRACE"] == "40.5"
    assert settings["BLIP_NO_FETCH"] == "true"
    assert settings["BLIP_FETCH_HOSTS"] == "a.com,*.b.org"
    assert settings["BLIP_LOG_FORMAT"] == "json" and settings["RUST_BACKTRACE"] == "1"


def test_a_new_catalogue_replaces_the_pods(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        pod = one(render(tmp_path, values), "Deployment")["spec"]["template"]
        return pod["metadata"]["annotations"]["checksum/catalogue"]

    text = 'default = "m"\n'
    assert checksum({}) != checksum({"catalogue": text})
    catalogue = one(render(tmp_path, {"catalogue": text}), "ConfigMap", "-catalogue")
    assert catalogue["data"]["models.toml"].strip() == text.strip()


def test_keys_and_certificates_are_read_from_secrets(tmp_path: Path) -> None:
    found = render(tmp_path, VALUES["keys"])
    secret = one(found, "Secret")
    assert secret["stringData"]["api-keys"].splitlines() == VALUES["keys"]["auth"]["keys"]
    text = json.dumps(pod_spec(found))
    assert secret["metadata"]["name"] in text and "sha256" not in text
    assert environment(pod_spec(found))["BLIP_API_KEYS_FILE"] == "/etc/blip-serve/keys/api-keys"
    settings = environment(pod_spec(render(tmp_path, VALUES["tls"])))
    assert settings["BLIP_TLS_CERT"] == "/etc/blip-serve/tls/tls.crt"
    assert settings["BLIP_TLS_CLIENT_CA"] == "/etc/blip-serve/tls/ca.crt"


def test_an_existing_bundle_is_not_made_again(tmp_path: Path) -> None:
    for name, command in (("fetch", "sha256sum -c"), ("export", "python -m blip_onnx")):
        spec = pod_spec(render(tmp_path, VALUES[name]))
        (container,) = spec["initContainers"]
        script = container["args"][0]
        assert script.startswith('test -e "/bundles/$NAME/manifest.json" && exit 0')
        assert command in script
        served = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
        assert served["bundles"]["readOnly"] is True
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"settings": {"queue-capasity": 3}}, "queue-capasity"),
        ({"settings": {"queue-capacity": "many"}}, "queue-capacity"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"imag": {}}, "imag"),
        ({"tls": {"clientCertificates": True}}, "tls.secretName"),
        ({"bundles": {"init": {"kind": "export", "image": "e:1"}}}, "bundles.volume"),
        ({"bundles": {"volume": "emptyDir", "init": {"kind": "fetch"}}}, "bundles.init.image"),
        ({"autoscaling": {"kind": "keda", "cpuUtilization": 0}}, "requestsInFlight"),
    ],
)
def test_errors_name_the_invalid_value(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    assert named in render_error(tmp_path, values)
