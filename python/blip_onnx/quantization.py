"""Writes a bundle below fp32 whose captions still are those of the fp32 graphs.

int8 starts with every linear layer quantised. While too few captions agree, more of the encoder's
and the head's layers stay fp32, those with the largest error first: bisection over how many. The
decoder's own layers are always int8. fp16 has nothing to keep: it agrees or is refused.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blip_onnx import ExportError
from blip_onnx.generate import Bundle
from blip_onnx.graphs.writer import Writer
from blip_onnx.precision import HEAD, VOCABULARY, Plan, is_encoder
from blip_onnx.verification import sensitivity
from blip_onnx.verification.agreement import Agreement, Gate

_MOST_TRIALS = 6

logger = logging.getLogger(__name__)


@dataclass
class _Trials:
    """Bundles written one after the other into one folder."""

    writer: Writer
    folder: Path
    manifest: dict[str, Any]
    gate: Gate
    kept: list[str] = field(default_factory=list)

    def measure(self, kept: list[str]) -> Agreement:
        """Write the bundle that keeps these layers in fp32, and compare its captions."""
        plan = Plan(self.manifest["precision"], kept=frozenset(kept))
        self.writer.write(self.folder, plan, self.manifest)
        agreement = self.gate.measure(Bundle(self.folder))
        self.kept = kept
        logger.info("%s, %d layers kept in fp32: %s", plan.precision, len(kept), agreement)
        return agreement


def write(
    writer: Writer,
    folders: tuple[Path, Path],
    manifest: dict[str, Any],
    pixels: list[np.ndarray],
    minimum: float,
) -> dict[str, Any]:
    """Fill the first of `folders`; the second is for fp32 graphs to compare with.

    Returns the manifest's `quantization`, or raises an `ExportError`.
    """
    folder, scratch = folders
    linears = writer.write(scratch, Plan(), manifest | {"precision": "fp32"})
    gate = Gate(Bundle(scratch), writer.checkpoint.tokenizer, pixels)
    trials = _Trials(writer, folder, manifest, gate)
    agreement = trials.measure([])
    if agreement.share < minimum and manifest["precision"] == "int8":
        errors = sensitivity.rank(scratch, linears, writer.weights, gate)
        agreement = _keep_some(trials, errors, minimum)
    if agreement.share < minimum:
        raise ExportError(f"{manifest['precision']}: {agreement}, --min-agreement is {minimum}")
    kept = [VOCABULARY] if manifest["precision"] == "fp16" else trials.kept
    return {
        "agreement": agreement.share,
        "cider": agreement.cider,
        "images": len(pixels),
        "captions": agreement.captions,
        "kept": kept,
        "quantized": len(linears) - len(kept),
    }


def _keep_some(trials: _Trials, errors: dict[str, float], minimum: float) -> Agreement:
    """Leave the bundle with the fewest layers kept that agrees, or else with all of them kept."""
    for name in list(errors)[:5]:
        logger.info("most sensitive: %s, relative error %.4f", name, errors[name])
    ranked = [name for name in errors if is_encoder(name) or name.startswith(HEAD)]
    fails, agrees = 0, len(ranked)
    best = trials.measure(ranked)
    if best.share < minimum:
        return best
    for _ in range(_MOST_TRIALS):
        if agrees - fails <= 1:
            break
        # The geometric middle: a few layers often are all it takes.
        middle = min(max(math.isqrt(max(fails, 1) * agrees), fails + 1), agrees - 1)
        agreement = trials.measure(ranked[:middle])
        if agreement.share < minimum:
            fails = middle
        else:
            agrees, best = middle, agreement
    if len(trials.kept) != agrees:
        best = trials.measure(ranked[:agrees])
    return best
