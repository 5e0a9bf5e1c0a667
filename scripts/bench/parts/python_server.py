"""Requests per second on the embedded model against a Python server of the same checkpoint.

The servers are compared with their default settings and with their best settings.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from bench.images import jpegs
from bench.load_generators import closed_loop
from bench.measure import interleave, ratios
from bench.models import scenes
from bench.settings import NEW_TOKENS, Result, Settings
from bench.subjects.served import Counters, body, start_service
from parity.models import available_cores
from service import ROOT, START_SECONDS, STOP_SECONDS, direct, free_port

logger = logging.getLogger("bench")

_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
# Enough to fill the largest batch of every worker.
_CONNECTIONS = 32
_SECONDS = 10
_BATCHES = (1, 2, 4, 8, 16)
_FINALISTS = 3


@dataclass(frozen=True)
class Setting:
    """The settings of LitServe."""

    workers: int = 1
    max_batch: int = 1
    # Threads of torch in each worker; 0 is torch's default.
    threads: int = 0

    def __str__(self) -> str:
        return f"workers {self.workers}, max_batch {self.max_batch}, threads {self.threads}"


@dataclass(frozen=True)
class PausedServer:
    """A server that is stopped except in its turn, because even idle workers use CPU time."""

    url: str
    # The process that gets the signals, or the negative number of its process group.
    pid: int

    def make_load(self, bodies: list[bytes]) -> Callable[[int], float]:
        """Return a function that resumes the server and measures its requests per second."""
        measure_load = _make_load(self.url, bodies)

        def requests_per_second(round_: int) -> float:
            os.kill(self.pid, signal.SIGCONT)
            try:
                return measure_load(round_)
            finally:
                os.kill(self.pid, signal.SIGSTOP)

        return requests_per_second


def measure(settings: Settings) -> Result:
    """Find the Python server's best settings, then compare them and the default with the service."""
    closed_loop.require_tools()
    if not _PYTHON.is_file():
        raise SystemExit("error: .venv-bench is missing: run `make venv-bench`")
    bodies = [body(image) for image in jpegs(settings.pick(64))]
    result = Result()
    tried = search(bodies, _BATCHES[-1:] if settings.quick else _BATCHES)
    result.details["search, requests/s"] = {str(key): rate for key, rate in tried.items()}
    # A single measurement is noisy, so the best settings are measured again.
    finalists = sorted(tried, key=tried.__getitem__, reverse=True)[:_FINALISTS]
    services = {count: f"blip-serve, instances {count}" for count in sorted({1, available_cores()})}
    seen, result.details["counters"] = _compare(settings, bodies, finalists, services)

    def fastest(names: Iterable[str]) -> str:
        return max(names, key=lambda name: median(seen[name]))

    best = {"service": fastest(services.values()), "peer": fastest(map(str, finalists))}
    pairs = {"default": (services[1], "default"), "best": (best["service"], best["peer"])}
    for name, (service, peer) in pairs.items():
        values = ratios(seen[service], seen[peer])
        result.add(f"requests/s against the Python server, {name}", values)
    result.details["best"] = best
    result.details["requests per second"] = seen
    return result


def _compare(
    settings: Settings, bodies: list[bytes], finalists: list[Setting], instances: dict[int, str]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return requests per second of all servers by name, and the counters of the services."""
    model = scenes()
    with ExitStack() as stack:
        servers = {"default": stack.enter_context(python_server(Setting()))}
        servers |= {str(key): stack.enter_context(python_server(key)) for key in finalists}
        services = {}
        for count, name in instances.items():
            serve = start_service(settings, {model.name: model.bundles["fp32"]}, instances=count)
            services[name] = service = stack.enter_context(serve)
            servers[name] = PausedServer(f"{service.url}/v1/captions", service.process.pid)
        before = {name: Counters.read(service, model.name) for name, service in services.items()}
        for server in servers.values():
            os.kill(server.pid, signal.SIGSTOP)
        loads = {name: server.make_load(bodies) for name, server in servers.items()}
        try:
            seen = interleave(loads, settings.rounds)
        finally:
            for server in servers.values():
                os.kill(server.pid, signal.SIGCONT)
        counted = {
            name: Counters.read(service, model.name).since(before[name]).json()
            for name, service in services.items()
        }
    return seen, counted


def search(bodies: list[bytes], batches: tuple[int, ...]) -> dict[Setting, float]:
    """Measure requests per second for each combination of workers and batch size."""
    cores = available_cores()
    tried: dict[Setting, float] = {}
    for workers, max_batch in product(sorted({1, cores}), batches):
        setting = Setting(workers, max_batch, max(1, cores // workers))
        with python_server(setting) as server:
            measure_load = _make_load(server.url, bodies)
            measure_load(-1)
            tried[setting] = measure_load(0)
        logger.info("LitServe, %s: %.1f requests/s", setting, tried[setting])
    return tried


@contextmanager
def python_server(setting: Setting) -> Iterator[PausedServer]:
    """Start LitServe and stop it at the end."""
    port = free_port()
    options = {
        "checkpoint": scenes().checkpoint,
        "port": port,
        "new-tokens": NEW_TOKENS,
        "workers": setting.workers,
        "max-batch": setting.max_batch,
        "threads": setting.threads,
    }
    command = [str(_PYTHON), str(ROOT / "scripts" / "bench" / "subjects" / "litserve_peer.py")]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    # Waiting threads must not spin on a core that another worker needs.
    tuned = {"OMP_WAIT_POLICY": "PASSIVE"} if setting.threads else {}
    # In a new session, so that the signal reaches the worker processes, too.
    process = subprocess.Popen(
        command,
        env=os.environ | tuned,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(process, port)
        yield PausedServer(f"http://127.0.0.1:{port}/predict", -process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with direct(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("LitServe does not answer")


def _make_load(url: str, bodies: list[bytes]) -> Callable[[int], float]:
    def requests_per_second(_: int) -> float:
        load = closed_loop.post_rest(url, bodies, _CONNECTIONS, _SECONDS)
        if load.failed:
            raise RuntimeError(f"{url}: {load.failed} requests failed")
        closed_loop.drain(url, bodies[0])
        return load.requests_per_second

    return requests_per_second
