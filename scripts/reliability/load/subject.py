"""The service under test on one core, without caches, and its counters."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bench.subjects.served import OFF, Counters, models_toml
from reliability.load.test_requests import MODEL
from service import ROOT, Service

BUNDLE = ROOT / "models" / MODEL


@contextmanager
def start_service(
    *flags: str, bundle: Path = BUNDLE, cores: set[int] | None = None, **how: Any
) -> Iterator[Service]:
    """Run a service without caches; `how` is passed to `Service`."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        service = make_service(Path(folder), *flags, bundle=bundle, cores=cores, **how)
        with service:
            yield service


def make_service(
    folder: Path,
    *flags: str,
    bundle: Path = BUNDLE,
    cores: set[int] | None = None,
    **how: Any,
) -> Service:
    """Return a service to start, with its files in `folder`."""
    models = folder / "models.toml"
    models.write_text(models_toml({MODEL: bundle}, OFF), "utf-8")
    # In front of the caller's prefix, so that its shell runs on the same cores.
    pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores)))) if cores else ()
    prefix = (*pinned, *how.pop("prefix", ()))
    log = how.pop("log", folder / "service.log")
    flags = ("--allow-private-networks", *flags)
    return Service(models=models, log=log, flags=flags, prefix=prefix, **how)


def counters(service: Service) -> Counters:
    """Return the model's counters, once it is idle."""
    return Counters.read(service, MODEL)


def encoder_runs(service: Service) -> int:
    """Return the number of images that the encoder has run for."""
    runs = counters(service).encoder
    if runs is None:
        raise RuntimeError("the service does not report the runs of its encoder")
    return runs.count


def decoder_runs(service: Service) -> int:
    """Return the number of runs of the decoder, with any number of rows."""
    return sum(runs.count for runs in counters(service).decoder.values())


@cache
def split_cores() -> tuple[set[int], set[int]]:
    """Return one core for the service and the others for the load, or the same core for both.

    The result is cached, so call it before the process is moved to the load's cores.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}
