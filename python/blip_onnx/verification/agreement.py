"""How many captions of a bundle are those of the fp32 graphs: what lower precisions are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_onnx.generate import Bundle, CachedDecoder, SearchConfig, greedy
from blip_onnx.manifest import prompt_ids
from blip_onnx.verification.cider import cider
from blip_onnx.verification.verify import NEW_TOKENS, PROMPTS


@dataclass(frozen=True)
class Agreement:
    """Captions compared, and how alike they are."""

    captions: int
    equal: int
    cider: float
    # What the fp32 captions score against themselves: short captions miss the full 10.
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


class Gate:
    """The fp32 captions of the images, greedy, with and without a prompt."""

    def __init__(self, reference: Bundle, tokenizer: Any, pixels: list[np.ndarray]) -> None:
        self.pixels = pixels
        self._tokenizer = tokenizer
        self._reference = self.caption(reference, pixels)

    def measure(self, bundle: Bundle) -> Agreement:
        """Caption all images with `bundle` and compare."""
        ours = self.caption(bundle, self.pixels)
        texts, references = self._texts(ours), self._texts(self._reference)
        return Agreement(
            captions=len(ours),
            equal=sum(mine == fp32 for mine, fp32 in zip(ours, self._reference, strict=True)),
            cider=cider(texts, references),
            full_cider=cider(references, references),
        )

    def caption(self, bundle: Bundle, pixels: list[np.ndarray]) -> list[list[int]]:
        """New tokens of each image and prompt; one image at a time, as the service encodes."""
        text = bundle.manifest["text"]
        captions = []
        for image in pixels:
            cross = bundle.encode(image)
            for prompt in PROMPTS:
                ids = prompt_ids(self._tokenizer, bundle.manifest, prompt)
                new_tokens = min(NEW_TOKENS, text["max_position_embeddings"] - len(ids))
                config = SearchConfig(text["eos_token_id"], max_new_tokens=new_tokens)
                decoder = CachedDecoder(bundle, cross, len(ids) + new_tokens)
                captions.append(greedy(decoder, ids, config)[len(ids) :])
        return captions

    def _texts(self, captions: list[list[int]]) -> list[str]:
        return self._tokenizer.batch_decode(captions, skip_special_tokens=True)
