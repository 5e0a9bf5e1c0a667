"""The image files that a parity run captions: generated images, and scenes of the embedded model.

Files come in every format that the service takes; damaged ones and formats that are refused by
name belong to the pixel sweep.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from parity.corpus.generate import corpus
from scenes import dataset

FORMATS: dict[str, dict[str, object]] = {
    "png": {},
    "jpg": {"quality": 90},
    "webp": {"lossless": True},
    "bmp": {},
    "gif": {},
    "tiff": {"compression": "tiff_lzw"},
}
CORPUS_SIDE = 96


def write_images(seed: int, count: int, folder: Path) -> dict[str, list[str]]:
    """Write `count` images and scenes and return their names by pool, `corpus` and `scenes`.

    A quarter of the pool `scenes` are images of the corpus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _write_corpus(seed, count, folder)
    drawn = [_write_scene(seed, number, folder) for number in range(count * 3 // 4)]
    return {"corpus": pictures, "scenes": drawn + pictures[: count // 4]}


def _write_corpus(seed: int, count: int, folder: Path) -> list[str]:
    names: list[str] = []
    for name, data in corpus(seed, 2 * count):
        if name.split("_")[1].startswith(("damaged-", "other-")):
            continue
        (folder / name).write_bytes(data)
        names.append(name)
        if len(names) == count:
            break
    return names


def _write_scene(seed: int, number: int, folder: Path) -> str:
    side = dataset.SIDE * (1, 2, 3)[number % 3]
    picture = dataset.render(dataset.make_scene("heldout", seed % 10**6 * 1000 + number), side)
    suffix, options = list(FORMATS.items())[number % len(FORMATS)]
    name = f"scene-{number:04d}-{side}.{suffix}"
    (folder / name).write_bytes(encode(picture, suffix, **options))
    return name


def encode(picture: object, suffix: str, **options: object) -> bytes:
    """Encode uint8 `[height, width, 3]` as a file of the format with this suffix."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, Image.registered_extensions()[f".{suffix}"], **options)
    return buffer.getvalue()
