"""Compares a bundle with transformers in the same process: tokens must be equal.

Captions come from generate itself, greedy and with beams, with and without a prompt. Logits are
compared along the oracle's own ids in every way the decoder can be driven: step by step, as one
prefill, and with rows of different past length in one step. Below fp32 only the logits are
compared: there the captions have a gate of their own (`agreement`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from blip_onnx import ExportError
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Bundle, CachedDecoder, KeyValues, SearchConfig
from blip_onnx.manifest import preprocess, prompt_ids
from blip_onnx.verification import reference

PROMPTS = (None, "a picture of")
NEW_TOKENS = 20
_BEAMS = (1, 3)
# Rows that share a step, as many as the service puts into one.
_MIXED_ROWS = 16
# A mismatch is excused below this multiple of the largest logit difference.
_MARGIN_FACTOR = 4
# Largest logit difference relative to the largest logit; beyond it the graphs are wrong even if
# the tokens happen to agree.
_MAX_RELATIVE_DIFFERENCE = 1e-2

logger = logging.getLogger(__name__)


@dataclass
class _Report:
    cases: int = 0
    tokens: int = 0
    difference: float = 0.0
    largest_logit: float = 0.0
    # Token mismatches, with the oracle's margin at the first differing decision.
    mismatches: list[tuple[str, float]] = field(default_factory=list)

    def compare(self, ours: np.ndarray, oracle_logits: np.ndarray) -> None:
        """Take in the difference of two logit arrays of one shape."""
        difference = float(np.abs(ours - oracle_logits).max())
        # NaN would lose every comparison.
        self.difference = max(self.difference, difference if np.isfinite(difference) else np.inf)
        self.largest_logit = max(self.largest_logit, float(np.abs(oracle_logits).max()))


@dataclass(frozen=True)
class _Case:
    """The oracle's caption of one image."""

    pixels: np.ndarray
    # Ids that the caption starts with.
    prompt: list[int]
    config: SearchConfig
    ids: list[int]
    # [new tokens, vocab]
    logits: np.ndarray


def verify(
    bundle: Bundle, checkpoint: Checkpoint, images: list[PIL.Image.Image]
) -> dict[str, int | float]:
    """The manifest's verification figures, or an `ExportError`."""
    report = _Report()
    cases = []
    exact = bundle.manifest["precision"] == "fp32"
    for image in images:
        pixels = oracle_pixels(bundle.manifest, checkpoint, image)
        cross = bundle.encode(pixels)
        for prompt in PROMPTS:
            for beams in _BEAMS if exact else (1,):
                case = _caption(bundle, checkpoint, pixels, prompt, beams)
                report.cases += 1
                report.tokens += len(case.ids) - len(case.prompt)
                if exact:
                    _compare_tokens(bundle, checkpoint, cross, case, report)
                if beams == 1:
                    _compare_steps(bundle, cross, case, report)
                    cases.append(case)
    _compare_mixed(bundle, cases[:_MIXED_ROWS], report)
    if not np.isfinite(report.difference):
        raise ExportError("verification failed: logits are not finite")
    if exact:
        _judge(report)
    return {
        "images": len(images),
        "cases": report.cases,
        "tokens": report.tokens,
        "max_abs_logit_difference": report.difference,
    }


def oracle_pixels(
    manifest: dict[str, Any], checkpoint: Checkpoint, image: PIL.Image.Image
) -> np.ndarray:
    """The oracle's pixels, after checking that the manifest describes them exactly."""
    pixels = checkpoint.image_processor(image, return_tensors="np")["pixel_values"]
    pixels = np.ascontiguousarray(pixels, np.float32)
    opaque = image.mode == "RGB" and "transparency" not in image.info
    if opaque and not np.array_equal(pixels, preprocess(image, manifest)):
        raise ExportError("the image processor's pixels are not those the manifest describes")
    return pixels


def _caption(
    bundle: Bundle, checkpoint: Checkpoint, pixels: np.ndarray, prompt: str | None, beams: int
) -> _Case:
    text = bundle.manifest["text"]
    start = prompt_ids(checkpoint.tokenizer, bundle.manifest, prompt)
    new_tokens = min(NEW_TOKENS, text["max_position_embeddings"] - len(start))
    config = SearchConfig(text["eos_token_id"], beams, new_tokens)
    theirs = reference.caption(checkpoint, pixels, prompt, config)
    return _Case(pixels, start, config, theirs.ids, theirs.logits)


def _compare_tokens(
    bundle: Bundle, checkpoint: Checkpoint, cross: KeyValues, case: _Case, report: _Report
) -> None:
    """Caption on our side, too; a difference is recorded with the oracle's margin."""
    prompt, config = case.prompt, case.config
    decoder = CachedDecoder(bundle, cross, len(prompt) + config.max_new_tokens)
    ours = reference.search(decoder, prompt, config)
    if ours != case.ids:
        margin = reference.margin(checkpoint, case.pixels, decoder, prompt, config)
        label = f"prompt {prompt}, {config.num_beams} beams: {ours} instead of {case.ids}"
        report.mismatches.append((label, margin))


def _compare_steps(bundle: Bundle, cross: KeyValues, case: _Case, report: _Report) -> None:
    """Teacher-forced logits: through the cache step by step, and as one prefill."""
    ids = np.array([case.ids], np.int64)
    decoder = CachedDecoder(bundle, cross, len(case.ids))
    parents = None
    for index, logits in enumerate(case.logits):
        report.compare(decoder(ids[:, : len(case.prompt) + index], parents)[0], logits)
        parents = np.zeros(1, np.int64)
    prefill = CachedDecoder(bundle, cross, len(case.ids))
    report.compare(prefill(ids[:, :-1], None)[0], case.logits[-1])


def _compare_mixed(bundle: Bundle, cases: list[_Case], report: _Report) -> None:
    """One step over rows of several images, each with a different past length."""
    capacity = max(len(case.ids) for case in cases)
    # One image at a time, as the service does: in int8 the images of a run touch each other.
    encoded = [bundle.encode(case.pixels) for case in cases]
    cross = [
        tuple(np.concatenate(tensors) for tensors in zip(*layer, strict=True))
        for layer in zip(*encoded, strict=True)
    ]
    cache = bundle.empty_cache(len(cases), capacity)
    past = np.zeros(len(cases), np.int64)
    for row, case in enumerate(cases):
        # Spread the rows over the lengths of their captions.
        generated = row * (len(case.logits) - 1) // max(len(cases) - 1, 1)
        past[row] = len(case.prompt) + generated - 1
        if past[row]:
            one = slice(row, row + 1)
            ids = np.array([case.ids[: past[row]]], np.int64)
            # Views, so that the prefill fills its row of the common cache.
            row_cache = [(key[one], value[one]) for key, value in cache]
            row_cross = [(key[one], value[one]) for key, value in cross]
            bundle.step(ids, np.zeros(1, np.int64), row_cache, row_cross)
    ids = np.array([[case.ids[past[row]]] for row, case in enumerate(cases)], np.int64)
    for row, logits in enumerate(bundle.step(ids, past, cache, cross)):
        report.compare(logits, cases[row].logits[past[row] + 1 - len(cases[row].prompt)])


def _judge(report: _Report) -> None:
    """Raise unless the tokens are equal, or the oracle was undecided where they part."""
    limit = _MAX_RELATIVE_DIFFERENCE * max(1.0, report.largest_logit)
    if report.difference > limit:
        raise ExportError(
            f"verification failed: logits differ by {report.difference:.3g} (limit {limit:.3g})"
        )
    for text, margin in report.mismatches:
        if margin >= _MARGIN_FACTOR * report.difference:
            raise ExportError(f"verification failed: {text} (oracle's margin {margin:.3g})")
        logger.warning(
            "excused, the oracle was undecided (margin %.3g, largest logit difference %.3g): %s",
            margin,
            report.difference,
            text,
        )
