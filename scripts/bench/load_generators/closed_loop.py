"""Closed loops by wrk and h2load: each connection waits for its response.

wrk posts distinct images over REST. h2load speaks HTTP/2 but repeats one file, so over gRPC the
image is always the same; with caches off the work is equal.
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
_DRAIN_SECONDS = 60


@dataclass(frozen=True)
class Load:
    """The measurements of a load generator; latencies in seconds."""

    requests_per_second: float
    failed: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def from_latencies(cls, latencies: Sequence[float], seconds: float, failed: int) -> Load:
        """Summarise the latencies of all answered requests."""
        cuts = quantiles(latencies, n=100, method="inclusive")
        return cls(len(latencies) / seconds, failed, cuts[49], cuts[94], cuts[98])

    def json(self) -> dict[str, Any]:
        """Return the values for the result file."""
        return asdict(self)


def require_tools() -> None:
    """Exit with the names of the Debian packages that are missing."""
    missing = [package for tool, package in _PACKAGES.items() if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"error: apt-get install {' '.join(missing)} (or `make bench-tools`)")


def post_rest(url: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Run wrk on `url`."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(bodies))
        file.flush()
        command = ["wrk", "--threads=1", f"--connections={connections}", "--timeout=60s"]
        command += [f"--duration={seconds:.0f}s", f"--script={_SCRIPT}", url]
        output = _run(command, BODIES=file.name)
    summary = json.loads(output.splitlines()[-1])
    rate = summary.pop("requests") / summary.pop("seconds")
    return Load(rate, **summary)


def call_grpc(address: str, message: bytes, connections: int, seconds: float) -> Load:
    """Run h2load on `blip.v1.CaptionService/Caption`.

    h2load does not read the status in the trailers, so failures have to be read from the service's
    counters.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "message"), Path(folder, "log")
        # The gRPC frame: the compression flag, the length and the message.
        data.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        command = ["h2load", "--clients", str(connections), "--max-concurrent-streams", "1"]
        command += ["--duration", f"{seconds:.0f}", "--data", str(data), "--log-file", str(log)]
        command += ["--header", "content-type: application/grpc", "--header", "te: trailers"]
        _run([*command, f"http://{address}/blip.v1.CaptionService/Caption"])
        lines = [line.split("\t") for line in log.read_text("utf-8").splitlines()]
    answered = [int(micros) / 1e6 for _, status, micros in lines if status == "200"]
    return Load.from_latencies(answered, seconds, len(lines) - len(answered))


def drain(url: str, body: bytes) -> None:
    """Wait until a server has finished the requests of the last load."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with direct(request, timeout=_DRAIN_SECONDS) as reply:
        reply.read()


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
