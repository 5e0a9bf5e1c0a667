"""Closed loops by Debian's load generators: so many connections, each waits for its answer.

wrk posts distinct pictures over REST. h2load speaks HTTP/2 but sends one file again and again, so
over gRPC the picture is always the same one; with caches off that is the same work.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from service import ROOT, direct

_SCRIPT = ROOT / "scripts" / "bench" / "load_generators" / "distinct.lua"
_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}


DRAIN_SECONDS = 60


@dataclass(frozen=True)
class Load:
    """What a load generator saw; latencies in seconds."""

    requests_per_second: float
    failed: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, latencies: Sequence[float], seconds: float, failed: int) -> Load:
        """From the latency of every request that was answered."""
        cuts = quantiles(latencies, n=100, method="inclusive")
        return cls(len(latencies) / seconds, failed, cuts[49], cuts[94], cuts[98])

    def json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def require_tools() -> None:
    """Say which Debian package is missing."""
    missing = [package for tool, package in _PACKAGES.items() if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"error: apt-get install {' '.join(missing)} (or `make bench-tools`)")


def rest(url: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """wrk on `url`."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(bodies))
        file.flush()
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += [
            "--duration",
            f"{seconds:.0f}s",
            "--timeout",
            "60s",
            "--script",
            str(_SCRIPT),
            url,
        ]
        output = _run(command, BODIES=file.name)
    seen = json.loads(output.splitlines()[-1])
    rate = seen.pop("requests") / seen.pop("seconds")
    return Load(rate, **seen)


def grpc(address: str, message: bytes, connections: int, seconds: float) -> Load:
    """h2load on `blip.v1.CaptionService/Caption`; it does not see a failure inside the trailers, the service's counters do."""
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "message"), Path(folder, "log")
        # A message behind its flag for compression and its length.
        data.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        command = ["h2load", "--clients", str(connections), "--max-concurrent-streams", "1"]
        command += ["--duration", f"{seconds:.0f}", "--data", str(data), "--log-file", str(log)]
        command += ["--header", "content-type: application/grpc", "--header", "te: trailers"]
        _run([*command, f"http://{address}/blip.v1.CaptionService/Caption"])
        lines = [line.split("\t") for line in log.read_text("utf-8").splitlines()]
    answered = [int(micros) / 1e6 for _, status, micros in lines if status == "200"]
    return Load.of(answered, seconds, len(lines) - len(answered))


def drain(url: str, body: bytes) -> None:
    """Wait for a server that still works on what the last load left behind: its turn is over."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with direct(request, timeout=DRAIN_SECONDS) as reply:
        reply.read()


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
