"""The service under test: on its own core, with a model that is as slow as wanted, and what it counts."""

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
def serving(
    *flags: str, bundle: Path = BUNDLE, cores: set[int] | None = None, **how: Any
) -> Iterator[Service]:
    """A running service that computes every request; `how` is for `Service`."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        service = described(Path(folder), *flags, bundle=bundle, cores=cores, **how)
        with service:
            yield service


def described(
    folder: Path,
    *flags: str,
    bundle: Path = BUNDLE,
    cores: set[int] | None = None,
    **how: Any,
) -> Service:
    """A service to be entered; its files are in `folder`."""
    models = folder / "models.toml"
    models.write_text(models_toml({MODEL: bundle}, OFF), "utf-8")
    # In front of a prefix of the caller's: its shell runs there, too.
    pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores)))) if cores else ()
    prefix = (*pinned, *how.pop("prefix", ()))
    log = how.pop("log", folder / "service.log")
    flags = ("--allow-private-networks", *flags)
    return Service(models=models, log=log, flags=flags, prefix=prefix, **how)


def counters(service: Service) -> Counters:
    """What the model has done so far, once it rests."""
    return Counters.read(service, MODEL)


def encoder_runs(service: Service) -> int:
    """Images that the encoder ran for so far."""
    runs = counters(service).encoder
    if runs is None:
        raise RuntimeError("the service does not count its encoder's runs")
    return runs.count


def decoder_runs(service: Service) -> int:
    """Runs of the decoder so far, however many rows they had."""
    return sum(runs.count for runs in counters(service).decoder.values())


@cache
def split_cores() -> tuple[set[int], set[int]]:
    """One core for the service, the others for the load; the same one if there is no other.

    The first answer stays: who moves to the load's cores asks before.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}
