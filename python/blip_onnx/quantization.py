"""Writes a bundle in fp16 or int8 whose captions agree with those of the fp32 graphs.

int8 starts with every linear layer quantised. If too few captions agree, the layers of the encoder
and the head with the largest error stay in fp32, and a bisection finds the smallest number of them.
The layers of the decoder below the head are always int8. fp16 keeps only the vocabulary projection in fp32: it
agrees or raises an error.
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
from blip_onnx.verification.agreement import Agreement, ReferenceCaptions

_MOST_TRIALS = 6

logger = logging.getLogger(__name__)


@dataclass
class _Trials:
    """Writes bundles into one folder, each over the previous one, and measures them."""

    writer: Writer
    folder: Path
    manifest: dict[str, Any]
    references: ReferenceCaptions
    # The layers that the bundle in the folder keeps in fp32.
    kept: list[str] = field(default_factory=list)

    def measure(self, kept: list[str]) -> Agreement:
        """Write the bundle that keeps these layers in fp32, and compare its captions."""
        plan = Plan(self.manifest["precision"], kept=frozenset(kept))
        self.writer.write(self.folder, plan, self.manifest)
        agreement = self.references.compare(Bundle(self.folder))
        self.kept = kept
        logger.info("%s, %d layers kept in fp32: %s", plan.precision, len(kept), agreement)
        return agreement


def write(
    writer: Writer,
    folder: Path,
    scratch: Path,
    manifest: dict[str, Any],
    pixels: list[np.ndarray],
    minimum: float,
) -> dict[str, Any]:
    """Write the bundle into `folder`, and the fp32 graphs to compare with into `scratch`.

    Returns the manifest's `quantization`. Raises `ExportError` if the share of equal captions is
    below `minimum`.
    """
    linears = writer.write(scratch, Plan(), manifest | {"precision": "fp32"})
    references = ReferenceCaptions(Bundle(scratch), writer.checkpoint.tokenizer, pixels)
    trials = _Trials(writer, folder, manifest, references)
    agreement = trials.measure([])
    if agreement.share < minimum and manifest["precision"] == "int8":
        errors = sensitivity.rank(scratch, linears, writer.state_dict, references)
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
    """Write the bundle with the fewest kept layers that agrees, or with all of them kept."""
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
        # The geometric mean, because a few layers are often enough.
        middle = min(max(math.isqrt(max(fails, 1) * agrees), fails + 1), agrees - 1)
        agreement = trials.measure(ranked[:middle])
        if agreement.share < minimum:
            fails = middle
        else:
            agrees, best = middle, agreement
    if len(trials.kept) != agrees:
        best = trials.measure(ranked[:agrees])
    return best
