"""A service without caches, and counters of the work that a service has done.

The caches save work: a repeated request is answered without a run of the model, and equal requests
at the same time share one. A test that counts work, or relies on it, uses a service without caches
or states what the caches do.
"""

from __future__ import annotations

import time
from pathlib import Path

import requests

from service import ROOT, Service, models_toml
from support.clients import MODEL, SECONDS
from support.metrics_page import value

NO_CACHES = "caption_cache_bytes = 0\nimage_cache_bytes = 0\nsingle_flight = false\n"
"""Keys of a model in models.toml."""


def uncached_service(folder: Path, more: str = "") -> Service:
    """Returns a service without caches, not yet started; `more` are further keys of its model."""
    models = folder / "models.toml"
    bundle = {MODEL: ROOT / "models" / MODEL}
    models.write_text(models_toml(bundle, MODEL) + NO_CACHES + more)
    return Service(models, log=folder / "service.log")


def metric(service: Service, name: str, **labels: str) -> float:
    """Returns the sum of a metric's samples with these labels."""
    page = requests.get(f"{service.url}/metrics", timeout=SECONDS).text
    return value(page, name, **labels)


def wait_until(service: Service, name: str, expected: float, **labels: str) -> None:
    """Waits until a metric has this value."""
    give_up = time.monotonic() + SECONDS
    while (seen := metric(service, name, **labels)) != expected:
        assert time.monotonic() < give_up, f"{name} is {seen}, not {expected}"


def wait_until_idle(service: Service) -> None:
    """Waits until no request is queued and none is decoded."""
    wait_until(service, "blip_queue_depth", 0)
    wait_until(service, "blip_decoder_rows", 0)


def runs_by_rows(service: Service) -> dict[int, int]:
    """Returns the number of decoder runs so far, by their number of rows."""
    url = f"{service.url}/v2/models/{MODEL}/stats"
    (model,) = requests.get(url, timeout=SECONDS).json()["model_stats"]
    return {batch["batch_size"]: batch["compute_infer"]["count"] for batch in model["batch_stats"]}


def difference(before: dict[int, int], after: dict[int, int]) -> dict[int, int]:
    """Returns the runs between two calls of `runs_by_rows`."""
    rows = {rows: count - before.get(rows, 0) for rows, count in after.items()}
    return {rows: count for rows, count in rows.items() if count}


def decoded_rows(service: Service) -> int:
    """Returns the number of rows decoded so far, over all runs: each is the work for one token."""
    return sum(rows * count for rows, count in runs_by_rows(service).items())
