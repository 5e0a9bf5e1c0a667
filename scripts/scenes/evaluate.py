"""Measures the checkpoint in models/scenes with transformers, and writes the sample images.

Captions come from BlipForConditionalGeneration.generate() in float32 with the checkpoint's
processor, so the figures hold for any program that loads the checkpoint with transformers.
"""

import argparse
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from scenes.dataset import KINDS, PROMPTS, SIDE, Scene, make_scene, render

LOG = logging.getLogger("scenes")
ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "models" / "scenes" / "checkpoint"
SAMPLES = ROOT / "examples" / "images"
BATCH = 50


@dataclass(frozen=True)
class Sample:
    """One file of examples/images: its name, its held-out scene and how Pillow writes it."""

    name: str
    index: int
    options: dict[str, int | bool | str]


SAMPLE_IMAGES = (
    Sample("dog-house.png", 1038, {"optimize": True}),
    Sample("cats.jpg", 1008, {"quality": 95}),
    Sample("rocket-guitar.webp", 1000, {"lossless": True}),
    Sample("flower.gif", 1028, {}),
    Sample("bicycle-car.bmp", 1027, {}),
    Sample("robots.tiff", 1034, {"compression": "tiff_lzw"}),
    Sample("umbrella-guitar.jpg", 1053, {"quality": 95, "progressive": True}),
    Sample("tree-cat.png", 1014, {"optimize": True}),
)


class Captioner:
    """Captions images with the checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = BlipForConditionalGeneration.from_pretrained(checkpoint).float().eval()
        self.processor = BlipProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def __call__(self, images: list[Image.Image], prompt: str | None = None) -> list[str]:
        """Return greedy captions, which contain the prompt."""
        texts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            text = None if prompt is None else [prompt] * len(part)
            inputs = self.processor(images=part, text=text, return_tensors="pt")
            rows = self.model.generate(**inputs, max_new_tokens=20)
            texts += self.processor.batch_decode(rows, skip_special_tokens=True)
        return texts


def render_image(scene: Scene, side: int = SIDE) -> Image.Image:
    """Render the scene as a Pillow image."""
    return Image.fromarray(render(scene, side))


def score(
    captioner: Captioner, scenes: list[Scene], title: str, prompt: str = "", side: int = SIDE
) -> None:
    """Log the share of exact captions by layout, and the first wrong ones."""
    texts = captioner([render_image(scene, side) for scene in scenes], prompt or None)
    captions = [scene.caption for scene in scenes]
    if prompt:
        captions = [c if c.startswith(prompt) else f"{prompt} {c}" for c in captions]
    wrong = [row for row in zip(scenes, captions, texts, strict=True) if row[1] != row[2]]
    right = len(scenes) - len(wrong)
    LOG.info("%s: %d of %d exact (%.1f %%)", title, right, len(scenes), 100 * right / len(scenes))
    totals = Counter(scene.kind for scene in scenes)
    misses = Counter(scene.kind for scene, _, _ in wrong)
    by_kind = [f"{k} {totals[k] - misses[k]}/{totals[k]}" for k in KINDS if totals[k]]
    LOG.info("  %s", ", ".join(by_kind))
    for _, expected, text in wrong[:5]:
        LOG.info("  expected %r got %r", expected, text)


def evaluate(captioner: Captioner, count: int) -> None:
    """Log all figures of the model card."""
    for split in ("train", "heldout", "unseen"):
        score(captioner, [make_scene(split, index) for index in range(count)], split)
    heldout = [make_scene("heldout", index) for index in range(count)]
    score(captioner, heldout, "heldout at twice the size", side=2 * SIDE)
    for prompt in PROMPTS:
        score(captioner, heldout, f"heldout after {prompt!r}", prompt)
    for number in ("two", "three"):
        counted = [scene for scene in heldout if scene.kind == number]
        score(captioner, counted, f"heldout after {number!r}", number)


def write_samples(captioner: Captioner) -> None:
    """Write the sample images at twice the model's size; raises ValueError for a wrong caption."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLE_IMAGES:
        scene = make_scene("heldout", sample.index)
        path = SAMPLES / sample.name
        render_image(scene, 2 * SIDE).save(path, **sample.options)
        with Image.open(path) as image:
            text = captioner([image.convert("RGB")])[0]
        if text != scene.caption:
            raise ValueError(f"{path}: captioned {text!r}, but it shows {scene.caption!r}")
        LOG.info("%s: %s", sample.name, text)


def main() -> None:
    """Evaluate the checkpoint, or write the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=500, help="scenes per figure")
    parser.add_argument("--samples", action="store_true", help="write examples/images instead")
    options = parser.parse_args()
    captioner = Captioner(options.checkpoint)
    if options.samples:
        write_samples(captioner)
    else:
        evaluate(captioner, options.count)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
