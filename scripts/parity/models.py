"""The models of a parity run: the embedded one and new random checkpoints, exported.

Checkpoints and bundles are made by the project's command lines, two in parallel, in the work folder
of the run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service import ROOT

logger = logging.getLogger("parity")

EMBEDDED = "scenes"
KINDS = ("base-small", "deep-text", "tiny")


@dataclass(frozen=True)
class Subject:
    """A model under test: the checkpoint for the oracle and the bundle for the service."""

    name: str
    checkpoint: Path
    bundle: Path

    @property
    def tolerance(self) -> float:
        """Return four times the largest |logit difference| in the manifest."""
        manifest = json.loads((self.bundle / "manifest.json").read_text("utf-8"))
        return 4 * manifest["verification"]["max_abs_logit_difference"]


def embedded() -> Subject:
    """Return the embedded model."""
    folder = ROOT / "models" / EMBEDDED
    return Subject(EMBEDDED, folder / "checkpoint", folder)


def make_checkpoint(kind: str, seed: int, work: Path, threads: int) -> Subject:
    """Make a random checkpoint of one kind; `export` makes its bundle."""
    subject = Subject(kind, work / "checkpoints" / kind, work / "bundles" / kind)
    subject.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    run_module("oracle.random_checkpoint", threads, kind=kind, seed=seed, output=subject.checkpoint)
    return subject


def export(subject: Subject, threads: int) -> None:
    """Export the bundle of a checkpoint."""
    run_module("blip_onnx", threads, model=subject.checkpoint, output=subject.bundle)


def make_all(kinds: list[str], seed: int, work: Path) -> list[Subject]:
    """Make random models of these kinds with their bundles, two in parallel on one thread each."""

    def make(kind: str) -> Subject:
        subject = make_checkpoint(kind, seed, work, threads=1)
        export(subject, threads=1)
        return subject

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(make, kinds))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_module(module: str, threads: int, **options: object) -> None:
    """Run one of the project's command lines; raises RuntimeError with its output."""
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", module, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"[-3000:])
    if figures := done.stdout.strip():
        logger.info("%s: %s", module, figures.splitlines()[-1])
