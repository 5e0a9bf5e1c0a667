"""Writes image files of every format and variant that the service accepts or refuses.

    python -m parity.corpus.generate --seed 7 --count 1000 --output corpus

The same seed gives the same files. The first files use each recipe once; later ones repeat the
recipes with other sizes and content. The name describes the file, as in
`00017_jpeg-420-q50_301x77.jpg`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from parity.corpus.recipes import Recipe
from parity.corpus.table import RECIPES

logger = logging.getLogger("corpus")

EDGE_SIZES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 640),
    (640, 1),
    (3, 500),
    (1023, 7),
    (7, 7),
    (8, 8),
    (9, 9),
    (15, 17),
]
EDGE_SIZES += [
    (16, 16),
    (17, 16),
    (33, 31),
    (384, 384),
    (383, 385),
    (480, 640),
    (640, 480),
    (500, 2000),
]
LARGE_SIZES = [(4000, 3000), (3000, 4000), (1920, 1080), (1080, 1920), (2500, 600)]
LARGE_EVERY = 120
"""One file in this many is large, because large files dominate the time."""


def draw_size(rng: np.random.Generator, number: int) -> tuple[int, int]:
    """Draw width and height of file `number`."""
    if number % LARGE_EVERY == LARGE_EVERY - 1:
        return LARGE_SIZES[number // LARGE_EVERY % len(LARGE_SIZES)]
    if number % 4 == 1:
        return EDGE_SIZES[int(rng.integers(len(EDGE_SIZES)))]
    width, height = np.exp(rng.uniform(np.log(10), np.log(500), 2)).astype(int)
    return int(width), int(height)


def draw_picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Draw `[height, width, 3]`: smooth shades, shapes, text and noise in random amounts."""
    coarse = rng.integers(
        0, 256, (int(rng.integers(2, 7)), int(rng.integers(2, 7)), 3), dtype=np.uint8
    )
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 12))):
        corners = np.sort(rng.integers(-10, [[width + 10], [height + 10]], (2, 2)), axis=1)
        box = [*corners[:, 0].tolist(), *corners[:, 1].tolist()]
        colour = tuple(rng.integers(0, 256, 3).tolist())
        [pen.ellipse, pen.rectangle, pen.line][int(rng.integers(3))](box, fill=colour)
    if rng.random() < 0.5:
        pen.text(
            (width // 8, height // 3), "Blip 0123 %&", fill=tuple(rng.integers(0, 256, 3).tolist())
        )
    pixels = np.asarray(image)
    strength = float(rng.choice([0, 2, 12, 80]))
    if strength and width * height < 2_000_000:
        pixels = np.clip(pixels + rng.normal(0, strength, pixels.shape), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def corpus(seed: int, count: int, only: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield `count` names and file contents, of recipes whose name contains `only`."""
    chosen: list[tuple[str, str, Recipe]] = [entry for entry in RECIPES if only in entry[0]]
    for number in range(count):
        name, suffix, recipe = chosen[number % len(chosen)]
        rng = np.random.default_rng([seed, number])
        width, height = draw_size(rng, number)
        data = recipe(rng, draw_picture(rng, width, height))
        yield f"{number:05d}_{name}_{width}x{height}.{suffix}", data


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="", help="keep the recipes whose name contains this text")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, data in corpus(arguments.seed, arguments.count, arguments.only):
        (arguments.output / name).write_bytes(data)
        total += len(data)
    logger.info("wrote %d files, %.1f MB, to %s", arguments.count, total / 1e6, arguments.output)


if __name__ == "__main__":
    main()
