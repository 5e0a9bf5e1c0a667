"""Measures how many captions of an fp16 or int8 bundle equal those of the fp32 graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_onnx.generate import Bundle, CachedDecoder, SearchConfig, greedy_search
from blip_onnx.manifest import prompt_ids
from blip_onnx.verification.cider import cider
from blip_onnx.verification.verify import NEW_TOKENS, PROMPTS


@dataclass(frozen=True)
class Agreement:
    """The number of captions compared, and their similarity."""

    captions: int
    equal: int
    cider: float
    # The score of the fp32 captions against themselves, below 10 if some of them are short.
    full_cider: float

    @property
    def share(self) -> float:
        """Share of captions that are equal token for token."""
        return self.equal / self.captions

    def __str__(self) -> str:
        return (
            f"{self.equal} of {self.captions} captions as in fp32 ({100 * self.share:.1f} %), "
            f"CIDEr {self.cider:.2f} (all equal: {self.full_cider:.2f})"
        )


class ReferenceCaptions:
    """The fp32 captions of some images, greedy, with and without a prompt."""

    def __init__(self, reference: Bundle, tokenizer: Any, pixels: list[np.ndarray]) -> None:
        self.pixels = pixels
        self._tokenizer = tokenizer
        self._reference = self.caption(reference, pixels)

    def compare(self, bundle: Bundle) -> Agreement:
        """Caption all images with `bundle` and compare."""
        captions = self.caption(bundle, self.pixels)
        texts, references = self._decode(captions), self._decode(self._reference)
        return Agreement(
            captions=len(captions),
            equal=sum(a == b for a, b in zip(captions, self._reference, strict=True)),
            cider=cider(texts, references),
            full_cider=cider(references, references),
        )

    def caption(self, bundle: Bundle, pixels: list[np.ndarray]) -> list[list[int]]:
        """Return the new tokens of each image and prompt; each run of the encoder has one image."""
        text = bundle.manifest["text"]
        captions = []
        for image in pixels:
            cross = bundle.encode(image)
            for prompt in PROMPTS:
                ids = prompt_ids(self._tokenizer, bundle.manifest, prompt)
                new_tokens = min(NEW_TOKENS, text["max_position_embeddings"] - len(ids))
                config = SearchConfig(text["eos_token_id"], max_new_tokens=new_tokens)
                decoder = CachedDecoder(bundle, cross, len(ids) + new_tokens)
                captions.append(greedy_search(decoder, ids, config)[len(ids) :])
        return captions

    def _decode(self, captions: list[list[int]]) -> list[str]:
        return self._tokenizer.batch_decode(captions, skip_special_tokens=True)
