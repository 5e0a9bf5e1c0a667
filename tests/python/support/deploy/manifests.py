"""Kubernetes objects of a text, and rules that all their pods follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml

Object = dict[str, Any]
# The newest version whose schemas the validator has, and the oldest that the chart allows.
VERSIONS = ("1.37", "1.30")
# API groups of operators: the validator has no schemas for them.
OPERATOR_APIS = (
    "keda.sh/",
    "monitoring.coreos.com/",
    "serving.kserve.io/",
    "kustomize.config.k8s.io/",
)


def objects(text: str) -> list[Object]:
    """Returns every object of a text."""
    return [entry for entry in yaml.safe_load_all(text) if entry]


def one(found: list[Object], kind: str, suffix: str = "") -> Object:
    """Returns the only object of a kind whose name ends with `suffix`."""
    (match,) = [
        entry
        for entry in found
        if entry["kind"] == kind and entry["metadata"]["name"].endswith(suffix)
    ]
    return match


def validate(found: list[Object]) -> int:
    """Validates objects against Kubernetes' schemas, unknown fields refused; returns their number."""
    known = [entry for entry in found if not entry["apiVersion"].startswith(OPERATOR_APIS)]
    for entry in known:
        for version in VERSIONS:
            kubernetes_validate.validate(entry, version, strict=True)
    return len(known)


def pods(found: list[Object]) -> Iterator[Object]:
    """Yields the specification of every pod."""
    for entry in found:
        if entry["kind"] == "Pod":
            yield entry["spec"]
        elif entry["kind"] == "Deployment":
            yield entry["spec"]["template"]["spec"]


def check_pod(spec: Object) -> None:
    """Checks for the `restricted` standard, no token, no service links, fixed image tags and resources."""
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"] + spec.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        assert tag and tag != "latest", container["image"]
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= {volume["name"] for volume in spec.get("volumes", [])}


def environment(spec: Object) -> dict[str, str]:
    """Returns the environment of the service's container."""
    return {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
