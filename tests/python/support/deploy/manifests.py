"""Kubernetes objects of a text, and what is always true of the pods among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml

Object = dict[str, Any]
# The newest whose schemas the validator has, and the oldest that the chart allows.
VERSIONS = ("1.37", "1.30")
# Kinds of operators: the validator has no schemas for them.
FOREIGN = ("keda.sh/", "monitoring.coreos.com/", "serving.kserve.io/", "kustomize.config.k8s.io/")


def objects(text: str) -> list[Object]:
    """Every object."""
    return [entry for entry in yaml.safe_load_all(text) if entry]


def one(found: list[Object], kind: str, suffix: str = "") -> Object:
    """The object of a kind whose name ends so."""
    (match,) = [
        entry
        for entry in found
        if entry["kind"] == kind and entry["metadata"]["name"].endswith(suffix)
    ]
    return match


def validate(found: list[Object]) -> int:
    """Compares with Kubernetes' own schemas, unknown fields refused; how many objects were."""
    own = [entry for entry in found if not entry["apiVersion"].startswith(FOREIGN)]
    for entry in own:
        for version in VERSIONS:
            kubernetes_validate.validate(entry, version, strict=True)
    return len(own)


def pods(found: list[Object]) -> Iterator[Object]:
    """The specification of every pod."""
    for entry in found:
        if entry["kind"] == "Pod":
            yield entry["spec"]
        elif entry["kind"] == "Deployment":
            yield entry["spec"]["template"]["spec"]


def check_pod(spec: Object) -> None:
    """What Kubernetes calls `restricted`, no token, no names of services in the environment, fixed images."""
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
        assert mounted <= {volume["name"] for volume in spec["volumes"]} if mounted else True


def environment(spec: Object) -> dict[str, str]:
    """Of the service's container."""
    return {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
