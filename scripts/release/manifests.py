"""Renders deploy/kubernetes from the Helm chart, for deployments without Helm: `make manifests`.

The manifests of the service need only Kubernetes; resources of operators are in separate files.
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
OPERATOR_SWITCHES = ("metrics.serviceMonitor", "metrics.prometheusRule", "metrics.dashboard")
HEADING = "# Generated from deploy/helm/blip-serve by `make manifests`.\n"
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
    """Render the chart; raises subprocess.CalledProcessError with Helm's output if that fails."""
    command = [str(HELM), "template", NAME, str(CHART), "--namespace", NAME, *arguments]
    command += ["--values", str(values)] if values else []
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def render_one(name: str, values: str, *arguments: str) -> str:
    """Render one template of the chart."""
    file = CHART / f"values-{values}.yaml"
    return template("--show-only", f"templates/{name}.yaml", *arguments, values=file)


def render_service(values: str, *arguments: str) -> str:
    """Render the service with its namespace and without the resources of operators."""
    switches = [f"--set={name}.enabled=false" for name in OPERATOR_SWITCHES]
    file = CHART / f"values-{values}.yaml"
    return NAMESPACE + template("--skip-tests", *switches, *arguments, values=file)


def render() -> dict[str, str]:
    """Return the texts of all files by name."""
    texts = {
        "cpu.yaml": render_service("cpu"),
        "gpu.yaml": render_service("gpu", "--set", "autoscaling.kind=none"),
        "gpu-keda.yaml": render_one("scaledobject", "gpu"),
        "monitoring.yaml": render_one("monitoring", "cpu"),
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
