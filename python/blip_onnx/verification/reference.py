"""transformers as the oracle: its captions, its logits and the margin of its decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blip_onnx import generate
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Decision, Decoder, SearchConfig

# The searches in `generate` apply no logits processors, so the oracle must run without them,
# whatever the checkpoint's defaults are.
_NO_PROCESSORS: dict[str, Any] = {
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
    """The result of generate for one image."""

    # Prompt and new tokens, with the end token and without padding.
    ids: list[int]
    # [new tokens, vocab]: the logits of beam 0 that each new token was chosen from.
    logits: np.ndarray


def caption(
    checkpoint: Checkpoint, pixels: np.ndarray, prompt: str | None, config: SearchConfig
) -> OracleCaption:
    """Caption `[1, 3, height, width]` pixels with `BlipForConditionalGeneration.generate`."""
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
            **_NO_PROCESSORS,
        )
    ids = output.sequences[0].tolist()
    if config.eos_token_id in ids[start:]:
        ids = ids[: ids.index(config.eos_token_id, start) + 1]
    logits = torch.stack(output.logits)[: len(ids) - start, 0]
    return OracleCaption(ids, logits.numpy())


def search(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> list[int]:
    """Run greedy or beam search, depending on `config.num_beams`."""
    if config.num_beams == 1:
        return generate.greedy_search(decoder, prompt, config, trace)
    return generate.beam_search(decoder, prompt, config, trace)[0]


def find_margin(
    checkpoint: Checkpoint,
    pixels: np.ndarray,
    decoder: Decoder,
    prompt: list[int],
    config: SearchConfig,
) -> float:
    """Return the oracle's margin at the first decision that differs from that of `decoder`.

    It is infinite if the decisions are equal: then the search differs from generate.
    """
    ours: list[Decision] = []
    theirs: list[Decision] = []
    search(decoder, prompt, config, ours)
    search(_oracle_decoder(checkpoint, pixels), prompt, config, theirs)
    differing = (b.margin for a, b in zip(ours, theirs, strict=False) if a.state != b.state)
    return next(differing, float("inf"))


def _oracle_decoder(checkpoint: Checkpoint, pixels: np.ndarray) -> Decoder:
    """Return transformers' model as a `Decoder` without a cache."""
    with torch.inference_mode():
        # [1, tokens, hidden]
        hidden = checkpoint.model.vision_model(torch.from_numpy(pixels))[0]

    def decode(sequences: np.ndarray, _parents: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            output = checkpoint.model.text_decoder(
                torch.from_numpy(sequences),
                encoder_hidden_states=hidden.expand(len(sequences), -1, -1),
            )
        return output.logits[:, -1].numpy()  # [rows, vocab]

    return decode
