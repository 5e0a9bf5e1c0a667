"""The machine and the versions that the figures were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from parity.models import available_cores
from service import ROOT

_PACKAGES = ("torch", "transformers", "onnxruntime", "pillow", "numpy")
# The instruction sets that determine the speed of int8 and bf16.
_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_COMMANDS = {
    "rustc": ["rustc", "--version"],
    "commit": ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
    "h2load": ["h2load", "--version"],
}


def describe_machine() -> dict[str, Any]:
    """Describe processor, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cpu family/model": f"{fields.get('cpu family')}/{fields.get('model')}",
        "extensions": [name for name in _EXTENSIONS if name in flags],
        "cores": available_cores(),
        "memory GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        # Above 0 other processes were running; the figures are then less reliable.
        "load average before": os.getloadavg()[0],
    }


def read_versions(binary: Path) -> dict[str, str]:
    """Return the versions of the service, its peers and the tools."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["python"] = platform.python_version()
    for package in (ROOT / ".venv-bench").glob("lib/*/site-packages/litserve-*.dist-info"):
        found["litserve"] = package.stem.removeprefix("litserve-")
    for name, command in {"blip-serve": [str(binary), "--version"], **_COMMANDS}.items():
        found[name] = _first_line(command)
    return found


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.splitlines()[0]
