"""The alternatives in a Python program: transformers, or the bundle's sessions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers import AutoTokenizer, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from bench.settings import FORCED, NEW_TOKENS
from blip_onnx.generate import Bundle, CachedDecoder, SearchConfig, greedy_search

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# An id that arg max never returns, because captions of a fixed length have no end token.
_NO_TOKEN = -1


class Transformers:
    """A checkpoint in transformers."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self.model = BlipForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).eval()
        self.processor = BlipImageProcessorPil.from_pretrained(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def caption(self, image: bytes) -> list[int]:
        """Return greedy token ids; the text is decoded as well, as the service does."""
        pixels = pixel_values(self.processor, image).to(self.model.dtype)
        with torch.inference_mode():
            ids = self.model.generate(pixel_values=pixels, **FORCED)[0]
        self.tokenizer.decode(ids, skip_special_tokens=True)
        return ids.tolist()


class RawSessions:
    """The graphs of a bundle in ONNX Runtime's Python sessions, with greedy search in numpy."""

    def __init__(self, bundle: Path, checkpoint: Path) -> None:
        self.bundle = Bundle(bundle)
        self.processor = BlipImageProcessorPil.from_pretrained(checkpoint)
        self._start = [self.bundle.manifest["text"]["bos_token_id"]]

    def caption(self, image: bytes) -> list[int]:
        """Return token ids of a caption of fixed length."""
        cross = self.bundle.encode(pixel_values(self.processor, image).numpy())
        decoder = CachedDecoder(self.bundle, cross, len(self._start) + NEW_TOKENS)
        return greedy_search(
            decoder, self._start, SearchConfig(_NO_TOKEN, max_new_tokens=NEW_TOKENS)
        )


def pixel_values(processor: Any, image: bytes) -> torch.Tensor:
    """Decode a file and return `[1, 3, height, width]` pixel values."""
    picture = PIL.Image.open(io.BytesIO(image))
    return processor(picture, return_tensors="pt")["pixel_values"]


def random_pixels(shape: list[int]) -> np.ndarray:
    """Return random pixels; the time of the encoder does not depend on their values."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)
