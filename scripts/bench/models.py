"""The models that are measured: random checkpoints and their bundles.

A checkpoint with the shape of BLIP-large takes minutes to make and export, so checkpoints and
bundles are kept in the work folder. Their names contain a hash of the source files that made them,
so that a change of the exporter exports again.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from parity.models import EMBEDDED, available_cores, embedded, run_module
from service import ROOT

logger = logging.getLogger("bench")

PRECISIONS = ("fp32", "int8")
SEED = 1
_EXPORTER = "python/blip_onnx/**/*.py"
_RANDOM_CHECKPOINT = "scripts/oracle/random_checkpoint.py"


@dataclass(frozen=True)
class Model:
    """A checkpoint with its bundles by precision."""

    name: str
    checkpoint: Path
    bundles: dict[str, Path]


def scenes() -> Model:
    """Return the embedded model, in fp32."""
    subject = embedded()
    return Model(EMBEDDED, subject.checkpoint, {"fp32": subject.bundle})


def random_model(kind: str, work: Path) -> Model:
    """Return a random checkpoint of this kind with its bundles, which are made if missing."""
    made_by = _hash(_RANDOM_CHECKPOINT)
    exported_by = _hash(_EXPORTER)
    checkpoint = work / "checkpoints" / f"{kind}-{SEED}-{made_by}"
    threads = available_cores()
    if not (checkpoint / "model.safetensors").is_file():
        logger.info("making the checkpoint %s", checkpoint.name)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        run_module("oracle.random_checkpoint", threads, kind=kind, seed=SEED, output=checkpoint)
    bundles = {}
    for precision in PRECISIONS:
        bundle = work / "bundles" / f"{checkpoint.name}-{precision}-{exported_by}"
        if not bundle.is_dir():
            logger.info("exporting %s", bundle.name)
            # The agreement of captions has no meaning for random weights.
            options = {"precision": precision, "min-agreement": 0}
            run_module("blip_onnx", threads, model=checkpoint, output=bundle, **options)
        bundles[precision] = bundle
    return Model(kind, checkpoint, bundles)


def bundle_bytes(bundle: Path) -> int:
    """Return the size of a bundle's files in bytes."""
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def _hash(pattern: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
