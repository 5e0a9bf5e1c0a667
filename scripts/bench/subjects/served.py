"""The service under measurement: its models.toml, requests and counters."""

from __future__ import annotations

import base64
import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.settings import FORCED, Settings
from service import Service, direct

MAX_ROWS = 16
_SETTLED_SECONDS = 0.01
# Above the requests in flight and the duration of requests in every load of the benchmark.
_FLAGS = ("--queue-capacity", "512", "--request-timeout", "600")


@dataclass(frozen=True)
class Caches:
    """The cache sizes of a model in bytes; no caches by default."""

    captions: int = 0
    images: int = 0


OFF = Caches()


def models_toml(bundles: dict[str, Path], caches: Caches, instances: int = 1) -> str:
    """Return a models.toml that serves these bundles by name; the first is the default."""
    lines = [f"default = {json.dumps(next(iter(bundles)))}"]
    for name, path in bundles.items():
        lines += ["[[models]]", f"name = {json.dumps(name)}", f"path = {json.dumps(str(path))}"]
        lines += [f"max_rows = {MAX_ROWS}", f"instances = {instances}"]
        lines += [
            f"caption_cache_bytes = {caches.captions}",
            f"image_cache_bytes = {caches.images}",
            f"single_flight = {str(caches != OFF).lower()}",
        ]
    return "\n".join(lines) + "\n"


@contextmanager
def start_service(
    settings: Settings, bundles: dict[str, Path], caches: Caches = OFF, instances: int = 1
) -> Iterator[Service]:
    """Run a service with these bundles."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        models = Path(folder, "models.toml")
        models.write_text(models_toml(bundles, caches, instances), "utf-8")
        log = Path(folder, "service.log")
        with Service(models=models, binary=settings.binary, log=log, flags=_FLAGS) as service:
            yield service


def body(image: bytes, model: str | None = None, **parameters: Any) -> bytes:
    """Return the JSON of `POST /v1/captions` for an image file and 20 new tokens."""
    request = {"image": base64.b64encode(image).decode(), "parameters": FORCED | parameters}
    return json.dumps(request | ({"model": model} if model else {})).encode()


class Client:
    """One persistent connection to the service."""

    def __init__(self, service: Service) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", service.port, timeout=600)

    def caption(self, request: bytes) -> tuple[float, dict[str, Any]]:
        """Return the seconds until the whole response was received, and its first caption."""
        start = time.perf_counter()
        headers = {"content-type": "application/json"}
        self._http.request("POST", "/v1/captions", request, headers)
        reply = self._http.getresponse()
        answer = reply.read()
        elapsed = time.perf_counter() - start
        if reply.status != 200:
            raise RuntimeError(f"the service answered {reply.status}: {answer.decode()}")
        return elapsed, json.loads(answer)["captions"][0]


@dataclass(frozen=True)
class Runs:
    """The number of runs of a graph and their duration in nanoseconds."""

    count: int = 0
    # Inside ONNX Runtime's Run.
    inside: int = 0
    # With the preparation of inputs and the handling of outputs.
    whole: int = 0

    @classmethod
    def from_statistics(cls, statistics: dict[str, Any]) -> Runs:
        """Read Triton's statistics of one batch size."""
        stages = [statistics[f"compute_{stage}"] for stage in ("input", "infer", "output")]
        inside = stages[1]
        return cls(inside["count"], inside["ns"], sum(stage["ns"] for stage in stages))

    def since(self, before: Runs) -> Runs:
        """Return the difference to `before`."""
        return Runs(
            self.count - before.count, self.inside - before.inside, self.whole - before.whole
        )


@dataclass(frozen=True)
class Counters:
    """The service's counters of one model."""

    requests: int
    failed: int
    # Nanoseconds of successful requests, by stage.
    stages: dict[str, int]
    # Runs of the decoder by rows.
    decoder: dict[int, Runs]
    # None if the service does not report runs of the encoder.
    encoder: Runs | None

    @classmethod
    def read(cls, service: Service, model: str) -> Counters:
        """Read the counters once they are stable: a run may be counted after its response is sent."""
        earlier, now = None, cls._read(service, model)
        while now != earlier:
            time.sleep(_SETTLED_SECONDS)
            earlier, now = now, cls._read(service, model)
        return now

    @classmethod
    def _read(cls, service: Service, model: str) -> Counters:
        with direct(f"{service.url}/v2/models/{model}/stats", timeout=10) as reply:
            statistics = json.load(reply)["model_stats"][0]
        stages = statistics["inference_stats"]
        encoder = statistics.get("encoder_stats")
        return cls(
            stages["success"]["count"],
            stages["fail"]["count"],
            {name: stage["ns"] for name, stage in stages.items()},
            {run["batch_size"]: Runs.from_statistics(run) for run in statistics["batch_stats"]},
            Runs(encoder["count"], encoder["ns"], encoder["ns"]) if encoder else None,
        )

    def since(self, before: Counters) -> Counters:
        """Return the difference to `before`."""
        decoder = {
            rows: runs.since(before.decoder.get(rows, Runs()))
            for rows, runs in self.decoder.items()
        }
        encoder = self.encoder and self.encoder.since(before.encoder or Runs())
        return Counters(
            self.requests - before.requests,
            self.failed - before.failed,
            {name: ns - before.stages[name] for name, ns in self.stages.items()},
            {rows: runs for rows, runs in decoder.items() if runs.count},
            encoder,
        )

    def step_seconds(self, rows: int) -> float:
        """Return the mean seconds of a decoder run with `rows` rows."""
        runs = self.decoder[rows]
        return runs.whole / runs.count / 1e9

    def outside_run(self) -> float | None:
        """Return the share of the requests' time outside ONNX Runtime, or None if unknown."""
        if self.encoder is None:
            return None
        inside = self.encoder.inside + sum(runs.inside for runs in self.decoder.values())
        return 1 - inside / self.stages["success"]

    def json(self) -> dict[str, Any]:
        """Return the counts for the result file."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "encoder_runs": self.encoder.count if self.encoder else None,
            "decoder_runs_by_rows": {rows: runs.count for rows, runs in self.decoder.items()},
        }
