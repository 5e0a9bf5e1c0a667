"""transformers as the oracle: its captions, its logits, and how sure it was of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blip_onnx import generate
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Decision, Decoder, SearchConfig

# The loops in `generate` know no logits processors, so the oracle must run without any,
# whatever the checkpoint's defaults are.
_PLAIN: dict[str, Any] = {
    "do_sample": False,
    "min_length": 0,
    "min_new_tokens": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
}


@dataclass(frozen=True)
class OracleCaption:
    """What generate answered for one image."""

    # Prompt and new tokens, the end token included, fill removed.
    ids: list[int]
    # Raw logits of beam 0 behind each new token, [new tokens, vocab].
    logits: np.ndarray


def caption(
    checkpoint: Checkpoint, pixels: np.ndarray, prompt: str | None, config: SearchConfig
) -> OracleCaption:
    """Caption `[1, 3, H, W]` pixels with `BlipForConditionalGeneration.generate` itself."""
    encoded = checkpoint.tokenizer(prompt, return_tensors="pt").input_ids if prompt else None
    start = encoded.shape[1] - 1 if prompt else 1
    with torch.inference_mode():
        output = checkpoint.model.generate(
            pixel_values=torch.from_numpy(pixels),
            input_ids=encoded,
            num_beams=config.num_beams,
            max_new_tokens=config.max_new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
            **_PLAIN,
        )
    ids = output.sequences[0].tolist()
    if config.eos_token_id in ids[start:]:
        ids = ids[: ids.index(config.eos_token_id, start) + 1]
    logits = torch.stack(output.logits)[: len(ids) - start, 0]
    return OracleCaption(ids, logits.numpy())


def search(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> list[int]:
    """Greedy or beam search, as `config` says."""
    if config.num_beams == 1:
        return generate.greedy(decoder, prompt, config, trace)
    return generate.beam(decoder, prompt, config, trace)[0]


def margin(
    checkpoint: Checkpoint,
    pixels: np.ndarray,
    ours: Decoder,
    prompt: list[int],
    config: SearchConfig,
) -> float:
    """The oracle's margin at the first decision that `ours` takes differently."""
    traces: tuple[list[Decision], list[Decision]] = ([], [])
    for decoder, trace in zip((ours, _decoder(checkpoint, pixels)), traces, strict=True):
        search(decoder, prompt, config, trace)
    for mine, theirs in zip(*traces, strict=False):
        if mine.state != theirs.state:
            return theirs.margin
    # The search loop itself disagrees with generate: no rounding excuses that.
    return float("inf")


def _decoder(checkpoint: Checkpoint, pixels: np.ndarray) -> Decoder:
    """transformers behind our search loop, without a cache."""
    with torch.inference_mode():
        hidden = checkpoint.model.vision_model(torch.from_numpy(pixels))[0]

    def decode(sequences: np.ndarray, _parents: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            output = checkpoint.model.text_decoder(
                torch.from_numpy(sequences),
                encoder_hidden_states=hidden.expand(len(sequences), -1, -1),
            )
        return output.logits[:, -1].numpy()

    return decode
