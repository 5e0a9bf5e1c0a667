"""Writes deploy/kubernetes from the Helm chart, for those who apply files: `make manifests`.

The manifests of the service want nothing but Kubernetes itself; what needs an operator is in files of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / ".tools" / "helm"
CHART = ROOT / "deploy" / "helm" / "blip-serve"
OUTPUT = ROOT / "deploy" / "kubernetes"
NAME = "blip-serve"
PLAIN = ("metrics.serviceMonitor", "metrics.prometheusRule", "metrics.dashboard")
HEADING = "# Made from deploy/helm/blip-serve by `make manifests`.\n"
NAMESPACE = f"""\
---
apiVersion: v1
kind: Namespace
metadata:
  name: {NAME}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def template(*arguments: str, values: Path | None = None) -> str:
    """The chart's manifests; subprocess.CalledProcessError with Helm's words if it refuses."""
    command = [str(HELM), "template", NAME, str(CHART), "--namespace", NAME, *arguments]
    command += ["--values", str(values)] if values else []
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def only(name: str, values: str, *arguments: str) -> str:
    """One template of the chart."""
    file = CHART / f"values-{values}.yaml"
    return template("--show-only", f"templates/{name}.yaml", *arguments, values=file)


def service(values: str, *arguments: str) -> str:
    """The service, with its namespace and without what needs an operator."""
    switches = [part for name in PLAIN for part in ("--set", f"{name}.enabled=false")]
    file = CHART / f"values-{values}.yaml"
    return NAMESPACE + template("--skip-tests", *switches, *arguments, values=file)


def render() -> dict[str, str]:
    """File names and what is in them."""
    texts = {
        "cpu.yaml": service("cpu"),
        "gpu.yaml": service("gpu", "--set", "autoscaling.kind=none"),
        "gpu-keda.yaml": only("scaledobject", "gpu"),
        "monitoring.yaml": only("monitoring", "cpu"),
    }
    return {name: HEADING + text for name, text in texts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    for name, text in render().items():
        (arguments.output / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
