"""The oracle: captions from transformers for the bytes of an image file.

`Oracle` wraps one checkpoint folder. The vision tower runs once per image and its output is cached;
everything else is `generate()` in fp32 with one image per call, because the low bits of a row may
depend on the other rows of a batch.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
# Pillow warns about large and unusual files; only whether it accepts them is compared.
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("ignore", message="Using the model-agnostic default")

Parameters = dict[str, Any]
"""Generation parameters with transformers' names, and `bad_words` as a list of strings."""


class ImageRefused(Exception):
    """Pillow or the image processor does not accept the file as an image."""


@dataclass(frozen=True)
class Caption:
    """One caption; `token_ids` from the start token to the end token, without padding."""

    token_ids: tuple[int, ...]
    text: str
    score: float
    finish_reason: str

    @property
    def length(self) -> int:
        return len(self.token_ids)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the expected values come from."""
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "pillow": PIL.__version__,
    }


def prompt_length(inputs: dict[str, torch.Tensor]) -> int:
    """Return the number of ids before the generated ones: start token and prompt without [SEP]."""
    input_ids = inputs.get("input_ids")
    return 1 if input_ids is None else input_ids.shape[1] - 1


@dataclass
class Oracle:
    """A BLIP checkpoint folder loaded through transformers in fp32."""

    checkpoint: Path
    model: BlipForConditionalGeneration = field(init=False)
    processor: BlipProcessor = field(init=False)
    _encoded: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model = BlipForConditionalGeneration.from_pretrained(
            self.checkpoint, dtype=torch.float32
        ).eval()
        self.processor = BlipProcessor.from_pretrained(self.checkpoint)
        backend = type(self.processor.image_processor).__name__
        if not backend.endswith("Pil"):
            raise RuntimeError(f"the oracle is the PIL backend, this is {backend}")
        self._run_vision = self.model.vision_model.forward

    def caption(
        self,
        image: bytes,
        prompt: str | None = None,
        parameters: Parameters | None = None,
    ) -> list[Caption]:
        """Return the captions of one image file; raises ImageRefused where Pillow fails."""
        parameters = parameters or {}
        inputs, output = self.generate(image, prompt, parameters, output_logits=True)
        start = prompt_length(inputs)
        beams = parameters.get("num_beams", 1) > 1
        captions = []
        for row, sequence in enumerate(output.sequences):
            if beams:
                length = start + int((output.beam_indices[row] >= 0).sum())
                score = float(output.sequences_scores[row])
            else:
                length = self._length_without_fill(sequence, start)
                score = _mean_log_probability(output, row, start, length, parameters)
            token_ids = tuple(sequence[:length].tolist())
            ended = token_ids[-1] == self.end_token_id
            text = self.processor.decode(sequence, skip_special_tokens=True)
            captions.append(Caption(token_ids, text, score, "eos" if ended else "length"))
        return captions

    def generate(
        self, image: bytes, prompt: str | None, parameters: Parameters, **outputs: bool
    ) -> tuple[dict[str, torch.Tensor], Any]:
        """Return the inputs and the result of generate(), with the chosen outputs."""
        arguments = dict(parameters)
        bad_words = arguments.pop("bad_words", None)
        if bad_words:
            tokenizer = self.processor.tokenizer
            arguments["bad_words_ids"] = [
                tokenizer(word, add_special_tokens=False).input_ids for word in bad_words
            ]
        if arguments.get("num_beams", 1) > 1:
            outputs["output_scores"] = True  # sequences_scores are only returned with them
        inputs = self._inputs(image, prompt)
        with torch.no_grad():
            output = self.model.generate(
                **inputs, **arguments, return_dict_in_generate=True, **outputs
            )
        return inputs, output

    @property
    def end_token_id(self) -> int:
        return self.model.config.text_config.sep_token_id

    def _inputs(self, image: bytes, prompt: str | None) -> dict[str, torch.Tensor]:
        key = hashlib.sha256(image).hexdigest()
        if key not in self._encoded:
            pixel_values = self.pixel_values(image)
            with torch.no_grad():
                self._encoded[key] = self._run_vision(pixel_values=pixel_values)[0]
        encoded = self._encoded[key]
        self.model.vision_model.forward = lambda **_: (encoded,)
        inputs = {"pixel_values": torch.zeros(1, 1)}  # only its first dimension is used
        if prompt is not None:
            inputs |= self.processor(text=prompt, return_tensors="pt")
        return inputs

    def pixel_values(self, image: bytes) -> torch.Tensor:
        """Return the pixel values of a file, float32 [1, 3, height, width]."""
        try:
            opened = Image.open(io.BytesIO(image))
            return self.processor(images=opened, return_tensors="pt")["pixel_values"]
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            raise ImageRefused(str(error)) from error

    def _length_without_fill(self, sequence: torch.Tensor, start: int) -> int:
        ends = (sequence[start:] == self.end_token_id).nonzero()
        return start + int(ends[0]) + 1 if len(ends) else len(sequence)


def _mean_log_probability(
    output: Any, row: int, start: int, length: int, parameters: Parameters
) -> float:
    """Return the sum of the generated ids' log-probabilities / n^length_penalty, by raw logits."""
    total = 0.0
    for step in range(length - start):
        log_probs = torch.log_softmax(output.logits[step][row].float(), dim=-1)
        total += float(log_probs[output.sequences[row, start + step]])
    return total / (length - start) ** parameters.get("length_penalty", 1.0)
