"""Training batches of rendered scenes: images, compact ids, labels for the auxiliary heads.

A batch is a function of (step, size, seed). Prompt and padding have no label, so the loss covers
exactly the tokens that the model has to generate.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenes.dataset import BACKGROUNDS, KINDS, OBJECTS, PROMPTS, SIDE, Scene, make_scene, render
from scenes.model import BOS, PAD, PATCH, SEP, Words

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ROLES = 6
PROMPTED = 0.4  # share of captions that follow a prompt


@dataclass(frozen=True)
class Batch:
    """A training batch."""

    images: Tensor  # [batch, 3, 96, 96], normalised
    ids: Tensor  # [batch, tokens]
    labels: Tensor  # [batch, tokens], -100 where there is no label
    patches: Tensor  # [batch, 36, 2], object and role
    background: Tensor  # [batch]
    kind: Tensor  # [batch]


def normalise(images: list[np.ndarray]) -> Tensor:
    """Convert images as the processor does, to floats [batch, 3, 96, 96]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def roles(scene: Scene) -> list[int]:
    """Return the role of each sprite: 1 counted, 2 left, 3 right, 4 upper, 5 lower."""
    return {"next to": [2, 3], "above": [4, 5]}.get(scene.kind, [1] * len(scene.placements))


def patch_labels(scene: Scene) -> np.ndarray:
    """Return object and role at the centre of each patch in raster order, [36, 2]."""
    pixels = np.zeros((SIDE, SIDE, 2), np.int64)  # 0 and 0 are the background
    for item, role in zip(scene.placements, roles(scene), strict=True):
        rows, columns = (slice(start, start + item.size) for start in (item.top, item.left))
        pixels[rows, columns] = list(OBJECTS).index(item.name) + 1, role
    return pixels[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].reshape(-1, 2)


def make_batch(step: int, size: int, seed: int, words: Words) -> Batch:
    """Make the training batch of one step."""
    first = seed * 10**9 + step * size
    scenes = [make_scene("train", first + offset) for offset in range(size)]
    rng = random.Random(f"prompt/{seed}/{step}")
    rows, starts = [], []
    for scene in scenes:
        prompt = words.encode(rng.choice(PROMPTS)) if rng.random() < PROMPTED else []
        caption = words.encode(scene.caption)
        rows.append([words.compact[BOS], *prompt, *caption, words.compact[SEP]])
        starts.append(1 + len(prompt))
    ids = torch.full((len(rows), max(map(len, rows))), words.compact[PAD])
    labels = torch.full_like(ids, -100)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, start : len(row)] = torch.tensor(row[start:])
    return Batch(
        images=normalise([render(scene) for scene in scenes]),
        ids=ids,
        labels=labels,
        patches=torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])),
        background=torch.tensor([list(BACKGROUNDS).index(s.background) for s in scenes]),
        kind=torch.tensor([KINDS.index(s.kind) for s in scenes]),
    )
