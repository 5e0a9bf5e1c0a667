"""The Helm chart with several sets of values, and its objects."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from release.manifests import template
from support.deploy.manifests import Object, objects, one

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "keys": {"auth": {"keys": ["one", "label:sha256:" + "0" * 64]}},
    "tls": {
        "tls": {"secretName": "t", "clientCertificates": True},
        "auth": {"existingSecret": "k"},
    },
    "fetch": {
        "bundles": {
            "volume": "emptyDir",
            "init": {
                "kind": "fetch",
                "image": "curl:8.1",
                "fetch": {"url": "https://example.com/b.tar.gz", "sha256": "0" * 64},
            },
        }
    },
    "export": {
        "bundles": {
            "volume": "persistentVolumeClaim",
            "storageClassName": "nfs",
            "init": {"kind": "export", "image": "export:1"},
        }
    },
    "keda": {"autoscaling": {"kind": "keda", "cpuUtilization": 50, "requestsInFlight": 8}},
    "hpa": {"autoscaling": {"kind": "hpa", "requestsInFlight": 8}},
    "monitoring": {
        "metrics": {
            kind: {"enabled": True, "labels": {"release": "prometheus"}}
            for kind in ("serviceMonitor", "prometheusRule", "dashboard")
        }
    },
    "everything else": {
        "image": {"digest": "sha256:" + "a" * 64, "tag": "ignored"},
        "imagePullSecrets": [{"name": "registry"}],
        "fullnameOverride": "other",
        "preStopSeconds": 0,
        "settings": {
            "shutdown-grace": 40.5,
            "max-image-pixels": 89478485,
            "no-fetch": True,
            "fetch-hosts": ["a.com", "*.b.org"],
        },
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "graphCache": {"existingClaim": "graphs"},
        "serviceAccount": {"create": False},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "networkPolicy": {
            "from": [{"podSelector": {}}],
            "fetchPorts": [],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 4317}]}],
        },
        "podLabels": {"team": "x"},
        "podAnnotations": {"note": "y"},
        "nodeSelector": {"disk": "ssd"},
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
    },
}


def render(folder: Path, values: dict[str, Any]) -> list[Object]:
    """Renders the chart with these values."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    return objects(template(values=file))


def pod_spec(found: list[Object]) -> Object:
    """Returns the specification of the service's pods."""
    return one(found, "Deployment")["spec"]["template"]["spec"]


def render_error(folder: Path, values: dict[str, Any]) -> str:
    """Returns Helm's error for values that it must refuse."""
    with pytest.raises(subprocess.CalledProcessError) as failure:
        render(folder, values)
    return failure.value.stderr
