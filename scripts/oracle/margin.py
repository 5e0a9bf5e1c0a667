"""The margin of the oracle's decisions: how small a change of the logits changes its answer.

The logits of another runtime differ from those of torch by a few units in the last place, so a near
tie of the oracle cannot be reproduced. For greedy search the margin is that of the first differing
token. A beam search is run again while its helper methods are observed, which gives the smallest
gap between kept and dropped candidates; then noise of that size is added to the oracle's logits to
check whether it gives the other answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from oracle.captions import Oracle, Parameters, prompt_length

ATTEMPTS = 96
"""Runs with noise before a beam mismatch counts as unexplained."""

PLACEHOLDER = -1e8
"""Scores below this belong to placeholders of the beam search (-1e9), not to hypotheses."""


@dataclass(frozen=True)
class Margin:
    """The smallest gap among the oracle's deciding quantities, in units of logits."""

    gap: float
    decision: str


def margin_of_mismatch(
    oracle: Oracle,
    image: bytes,
    prompt: str | None,
    parameters: Parameters,
    answer: Sequence[Sequence[int]],
    tolerance: float,
) -> Margin | None:
    """Return the margin if it explains `answer` (ids per caption) within `tolerance`, or None."""
    if parameters.get("num_beams", 1) == 1:
        margin = greedy_margin(oracle, image, prompt, parameters, answer[0])
        return margin if margin is not None and margin.gap < tolerance else None
    margin = beam_margin(oracle, image, prompt, parameters)
    if margin.gap >= tolerance:
        return None
    for attempt in range(ATTEMPTS):
        size = tolerance / 2 if attempt % 2 else tolerance
        with disturbed(oracle, size, seed=attempt):
            captions = oracle.caption(image, prompt, parameters)
        if [list(caption.token_ids) for caption in captions] == [list(ids) for ids in answer]:
            return margin
    return None


def greedy_margin(
    oracle: Oracle,
    image: bytes,
    prompt: str | None,
    parameters: Parameters,
    answer: Sequence[int],
) -> Margin | None:
    """Return the gap of the processed logits at the first token that differs."""
    inputs, output = oracle.generate(image, prompt, parameters, output_scores=True)
    start = prompt_length(inputs)
    expected = output.sequences[0].tolist()
    if list(answer[:start]) != expected[:start]:
        return None
    for step, scores in enumerate(output.scores):
        position = start + step
        if position >= len(answer):
            return None  # the answer stops without the end token before the oracle does
        if answer[position] != expected[position]:
            gap = float(scores[0].max() - scores[0, answer[position]])
            return Margin(gap, f"token {step}")
    return None


def beam_margin(oracle: Oracle, image: bytes, prompt: str | None, parameters: Parameters) -> Margin:
    """Return the smallest gap of a whole beam search."""
    observer = _Observer(parameters.get("num_return_sequences", 1))
    with observer.attach(oracle.model.text_decoder):
        oracle.generate(image, prompt, parameters)
    return min(observer.gaps + observer.final_gaps, key=lambda margin: margin.gap)


@contextmanager
def disturbed(oracle: Oracle, size: float, seed: int) -> Iterator[None]:
    """Add noise, uniform in [-size, size], to the decoder's logits."""
    generator = torch.Generator().manual_seed(seed)

    def add_noise(_module: torch.nn.Module, _inputs: tuple, output: Any) -> Any:
        noise = torch.rand(output.logits.shape, generator=generator) * 2 - 1
        output.logits = output.logits + noise * size
        return output

    hook = oracle.model.text_decoder.register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()


@dataclass
class _Observer:
    """Collects gaps from the helper methods of transformers' beam search (one image)."""

    num_return_sequences: int
    gaps: list[Margin] = field(default_factory=lambda: [Margin(float("inf"), "none")])
    final_gaps: list[Margin] = field(default_factory=list)
    beyond_candidates: float = float("inf")
    step: int = 0

    @contextmanager
    def attach(self, decoder: torch.nn.Module) -> Iterator[None]:
        observers: dict[str, Callable[..., None]] = {
            "_get_top_k_continuations": self._candidates,
            "_update_finished_beams": self._finished,
            "_check_early_stop_heuristic": self._stopping,
        }
        for name, observe in observers.items():
            setattr(decoder, name, _observed(getattr(decoder, name), observe))
        try:
            yield
        finally:
            for name in observers:
                delattr(decoder, name)

    def _add(self, gap: float, what: str) -> None:
        self.gaps.append(Margin(gap, f"{what} at token {self.step}"))

    def _candidates(self, _result: Any, accumulated_log_probs: Any, beams_to_keep: int, **_: Any):
        values = torch.topk(accumulated_log_probs[0], beams_to_keep + 1).values
        self.beyond_candidates = float(values[-2] - values[-1])

    def _finished(
        self,
        _result: Any,
        topk_log_probs: torch.Tensor,
        next_token_hits_stopping_criteria: torch.Tensor,
        num_beams: int,
        beam_scores: torch.Tensor,
        beam_indices: torch.Tensor,
        cur_len: int,
        decoder_prompt_len: int,
        length_penalty: float,
        is_early_stop_heuristic_unsatisfied: torch.Tensor,
        **_: Any,
    ) -> None:
        values = topk_log_probs[0].tolist()
        hits = next_token_hits_stopping_criteria[0].tolist()
        # Only ranks below num_beams may finish, so the gap to that limit decides.
        first, beyond = values[num_beams - 1], values[num_beams]
        for rank, (value, hit) in enumerate(zip(values, hits, strict=True)):
            if hit and value > PLACEHOLDER:
                self._add(
                    value - beyond if rank < num_beams else first - value,
                    "finishing rank",
                )
        running = [v for v, hit in zip(values, hits, strict=True) if not hit and v > PLACEHOLDER]
        if len(running) > num_beams:
            self._add(running[num_beams - 1] - running[num_beams], "beam kept")
        elif running:
            self._add(self.beyond_candidates, "candidate kept")
        length = cur_len + 1 - decoder_prompt_len
        finished = [
            (score, int(count))
            for score, count in zip(
                beam_scores[0].tolist(),
                (beam_indices[0] >= 0).sum(dim=-1).tolist(),
                strict=True,
            )
            if score > PLACEHOLDER
        ]
        if bool(is_early_stop_heuristic_unsatisfied[0]):
            finished += [
                (value / length**length_penalty, length)
                for value, hit in zip(values[:num_beams], hits[:num_beams], strict=True)
                if hit and value > PLACEHOLDER
            ]
        self._merged(sorted(finished, reverse=True), num_beams, length_penalty)
        self.step += 1

    def _merged(
        self, finished: list[tuple[float, int]], num_beams: int, length_penalty: float
    ) -> None:
        """Record gaps between hypotheses, of the sums of log-probabilities before the penalty."""
        gaps = [
            (a[0] - b[0]) * min(a[1] ** length_penalty, b[1] ** length_penalty)
            for a, b in itertools.pairwise(finished)
        ]
        if len(gaps) >= num_beams:
            self._add(gaps[num_beams - 1], "hypothesis kept")
        order = gaps[: min(self.num_return_sequences, num_beams - 1)]
        self.final_gaps = [Margin(gap, "order of the hypotheses") for gap in order]

    def _stopping(
        self,
        _result: Any,
        running_beam_scores: torch.Tensor,
        beam_scores: torch.Tensor,
        is_sent_finished: torch.Tensor,
        cur_len: int,
        max_length: int,
        decoder_prompt_len: int,
        early_stopping: bool | str,
        length_penalty: float,
        **_: Any,
    ) -> None:
        best = float(running_beam_scores[0, 0])
        if not bool(is_sent_finished.all()) or best <= PLACEHOLDER or early_stopping is True:
            return
        never = early_stopping == "never" and length_penalty > 0
        length = (max_length if never else cur_len) - decoder_prompt_len
        divisor = length**length_penalty
        self._add(abs(best / divisor - float(beam_scores.min())) * divisor, "stopping")


def _observed(method: Callable[..., Any], observe: Callable[..., None]) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        result = method(**arguments)
        observe(result, **arguments)
        return result

    return call
