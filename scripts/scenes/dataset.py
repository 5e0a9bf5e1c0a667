"""Scenes of sprites on a plain background, with one true caption each.

A scene is a function of (split, index), so that training, evaluation and tests see the same images
on every machine. The image determines the caption: "next to" names the left object first, "above"
the upper one, and counted objects are equal. Held-out splits use only combinations that do not
occur in training. The module needs only numpy and Pillow.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

SPRITES = Path(__file__).resolve().parents[2] / "models" / "scenes" / "sprites"

# Every object with its plural.
OBJECTS = {
    "dog": "dogs",
    "cat": "cats",
    "car": "cars",
    "tree": "trees",
    "umbrella": "umbrellas",
    "rocket": "rockets",
    "cake": "cakes",
    "apple": "apples",
    "banana": "bananas",
    "house": "houses",
    "boat": "boats",
    "fish": "fish",
    "bird": "birds",
    "flower": "flowers",
    "star": "stars",
    "heart": "hearts",
    "bicycle": "bicycles",
    "train": "trains",
    "bus": "buses",
    "guitar": "guitars",
    "drum": "drums",
    "key": "keys",
    "clock": "clocks",
    "book": "books",
    "hat": "hats",
    "crown": "crowns",
    "pizza": "pizzas",
    "frog": "frogs",
    "pig": "pigs",
    "turtle": "turtles",
    "robot": "robots",
    "balloon": "balloons",
    "gift": "gifts",
    "camera": "cameras",
    "bell": "bells",
    "owl": "owls",
}
BACKGROUNDS = {
    "red": (200, 55, 50),
    "blue": (60, 110, 205),
    "green": (70, 165, 80),
    "yellow": (240, 220, 90),
    "purple": (130, 75, 175),
    "pink": (245, 165, 195),
    "orange": (240, 140, 50),
    "gray": (135, 135, 135),
    "black": (22, 22, 22),
    "white": (246, 246, 246),
}
KINDS = ("one", "two", "three", "next to", "above")
KIND_WEIGHTS = (2, 2, 2, 3, 3)
TRAIN_STYLES = ("fluent", "twitter")
UNSEEN_STYLE = "google"
SPLITS = ("train", "heldout", "unseen")
PROMPTS = ("a photography of", "a picture of", "an image of")

SIDE = 96  # pixels of the model's input, in which all positions below are given
CELL = 32  # sprites are placed on a 3x3 grid of cells, each two ViT patches wide
SPRITE_SIZES = (28, 30, 32)
JITTER = 2
TINT = 10  # the colour of a background varies by this much per channel
HELD_OUT_SHARE = 10  # one combination in this many is never trained on
FILTERS = (Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Placement:
    """One sprite on the canvas: object name, left, top and size in pixels, resize filter."""

    name: str
    left: int
    top: int
    size: int
    filter: Image.Resampling


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image and its caption."""

    kind: str
    background: str
    style: str
    placements: tuple[Placement, ...]
    colour: tuple[int, int, int]
    noise: int  # number of a noise field; 0 is flat

    @property
    def names(self) -> tuple[str, ...]:
        """Return the distinct objects, in the order of the caption."""
        return tuple(dict.fromkeys(placement.name for placement in self.placements))

    @property
    def combination(self) -> tuple[str, ...]:
        """Return sorted objects and background, which must not occur on both sides of the split."""
        return (*sorted(self.names), self.background)

    @property
    def caption(self) -> str:
        """Return the true caption, in lower case and without a full stop."""
        first, second = self.names[0], self.names[-1]
        if self.kind == "one":
            subject = with_article(first)
        elif self.kind in ("two", "three"):
            subject = f"{self.kind} {OBJECTS[first]}"
        else:
            subject = f"{with_article(first)} {self.kind} {with_article(second)}"
        return f"{subject} on {with_article(self.background)} background"


def with_article(noun: str) -> str:
    """Return the noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _one_in(share: int, *words: str) -> bool:
    digest = hashlib.sha256("/".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") % share == 0


@cache
def is_held_out(combination: tuple[str, ...]) -> bool:
    """Whether a combination is excluded from training, as a pair or with its background."""
    *names, _background = combination
    whole_pair = len(names) == 2 and _one_in(HELD_OUT_SHARE, *names)
    return whole_pair or _one_in(HELD_OUT_SHARE, *combination)


def held_out_pairs() -> list[tuple[str, str]]:
    """Return the sorted object pairs that do not occur in training on any background."""
    pairs = combinations(sorted(OBJECTS), 2)
    return [pair for pair in pairs if _one_in(HELD_OUT_SHARE, *pair)]


def _cells(rng: random.Random, kind: str) -> list[tuple[int, int]]:
    """Draw (column, row) for each sprite; the cells determine the relation of a pair."""
    if kind == "next to":
        row, columns = rng.randrange(3), sorted(rng.sample(range(3), 2))
        return [(column, row) for column in columns]
    if kind == "above":
        column, rows = rng.randrange(3), sorted(rng.sample(range(3), 2))
        return [(column, row) for row in rows]
    count = {"one": 1, "two": 2, "three": 3}[kind]
    return [divmod(cell, 3) for cell in rng.sample(range(9), count)]


def _place(rng: random.Random, name: str, cell: tuple[int, int]) -> Placement:
    size = rng.choice(SPRITE_SIZES)
    centred = [CELL * c + (CELL - size) // 2 + rng.randint(-JITTER, JITTER) for c in cell]
    left, top = (min(max(offset, 0), SIDE - size) for offset in centred)
    return Placement(name, left, top, size, rng.choice(FILTERS))


def make_scene(split: str, index: int) -> Scene:
    """Make the scene with this number in a split, the same on every machine."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {SPLITS}")
    rng = random.Random(f"{split}/{index}")
    kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
    while True:
        names = rng.sample(sorted(OBJECTS), 2 if kind in ("next to", "above") else 1)
        background = rng.choice(sorted(BACKGROUNDS))
        if is_held_out((*sorted(names), background)) == (split != "train"):
            break
    cells = _cells(rng, kind)
    named = names if len(names) == 2 else names * len(cells)
    return Scene(
        kind=kind,
        background=background,
        style=UNSEEN_STYLE if split == "unseen" else rng.choice(TRAIN_STYLES),
        placements=tuple(_place(rng, name, cell) for name, cell in zip(named, cells, strict=True)),
        colour=tuple(c + rng.randint(-TINT, TINT) for c in BACKGROUNDS[background]),
        noise=rng.randrange(8),
    )


@cache
def _sprite(style: str, name: str, size: int, method: int) -> tuple[np.ndarray, np.ndarray]:
    """Return premultiplied colour [size, size, 3] and 1 - alpha [size, size, 1] in float32."""
    with Image.open(SPRITES / style / f"{name}.png") as image:
        resized = image.convert("RGBa").resize((size, size), method)
    pixels = np.asarray(resized, dtype=np.float32)
    return pixels[..., :3], 1.0 - pixels[..., 3:] / 255.0


@cache
def _noise(number: int, side: int) -> np.ndarray:
    """Return a fixed noise field [side, side, 1] of -6 to 6 levels; field 0 is flat."""
    if number == 0:
        return np.zeros((side, side, 1), np.float32)
    generator = np.random.Generator(np.random.PCG64(number))
    return generator.integers(-6, 7, (side, side, 1)).astype(np.float32)


def render(scene: Scene, side: int = SIDE) -> np.ndarray:
    """Render the scene as uint8 RGB [side, side, 3]; `side` is a multiple of 96."""
    scale = side // SIDE
    canvas = np.asarray(scene.colour, np.float32) + _noise(scene.noise, side)
    for item in scene.placements:
        size, left, top = item.size * scale, item.left * scale, item.top * scale
        colour, keep = _sprite(scene.style, item.name, size, item.filter)
        window = canvas[top : top + size, left : left + size]
        window *= keep
        window += colour
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
