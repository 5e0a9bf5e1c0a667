"""Writes tests/golden/images.json: JPEG files decoded, images resized, pixel_values, by the oracle.

Images are either files (base64) or noise that both sides compute from the same formula. Results are
stored as SHA-256. The file depends only on the pinned versions of Pillow and transformers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import transformers
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from oracle.pixels import Refusal, oracle_rgb
from parity.corpus import recipes as r
from parity.corpus.generate import draw_picture
from parity.corpus.table import RECIPES

logger = logging.getLogger("golden")
OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "images.json"
SEED = 11

SIZES = [(640, 480, 384, 384), (480, 640, 384, 384), (100, 300, 96, 96), (300, 100, 96, 96)]
SIZES += [(1, 1, 5, 7), (1, 9, 4, 3), (9, 1, 4, 3), (2, 2, 33, 20), (384, 200, 384, 384)]
SIZES += [(200, 384, 384, 384), (31, 17, 31, 17), (2, 999, 384, 384), (50, 40, 7, 90)]
# At the boundary of Pillow 13's order: the vertical pass first if it removes more than twice as many rows as columns.
SIZES += [(9, 12, 6, 6), (9, 13, 6, 6), (6, 8, 5, 6), (6, 9, 5, 6), (12, 9, 6, 6)]


RESOURCE = b"Photoshop 3.0\x008BIM"
SEGMENTS = {
    "jfif-short": b"\xff\xe0\0\x08JFIF\0\1",
    "jfif-just-enough": b"\xff\xe0\0\x09JFIF\0\1\1",
    "adobe-short": b"\xff\xee\0\x08Adobe\0",
    "adobe-just-enough": b"\xff\xee\0\x09Adobe\0\x64",
    "photoshop-no-code": b"\xff\xed\0\x15" + RESOURCE + b"\x04",
    "photoshop-no-name-length": b"\xff\xed\0\x16" + RESOURCE + b"\x04\x04",
    "photoshop-no-size": b"\xff\xed\0\x18" + RESOURCE + b"\x04\x04\0\0",
    "photoshop-short-resolution": b"\xff\xed\0\x22" + RESOURCE + b"\x03\xed\0\0\0\0\0\08BIM\4\4",
    "photoshop-second-cut": b"\xff\xed\0\x22" + RESOURCE + b"\x04\x04\0\0\0\0\0\08BIM\4\4",
    "photoshop-huge-size": b"\xff\xed\0\x1c" + RESOURCE + b"\x04\x04\0\0\xff\xff\xff\xff",
    "stray-bytes": b"\xff\xfe\0\2\0\x12garbage",
    "stuffed-zero": b"\xff\0",
    "fill-bytes": b"\xff\xff\xff\xff",
    "restart": b"\xff\xd3",
    "second-start": b"\xff\xd8",
    "temporary": b"\xff\x01",
    "extension": b"\xff\xf3",
    "length-zero": b"\xff\xe5\0\0",
    "length-one": b"\xff\xfe\0\1",
    "length-beyond-end": b"\xff\xe5\xff\xff",
    "quantisation-cut": b"\xff\xdb\0\x10\0" + bytes(13),
    "quantisation-empty": b"\xff\xdb\0\2",
    "hierarchical": b"\xff\xde\0\x0b\x08\0\x09\0\x09\1\1\x11\0",
    "expansion": b"\xff\xdf\0\3\0",
    "second-frame": b"\xff\xc0\0\x0b\x08\0\x09\0\x09\1\1\x11\0",
    "two-components": b"\xff\xc0\0\x0e\x08\0\x09\0\x09\2\1\x11\0\2\x11\0",
}
"""Put between the start and the first segment of a small JPEG."""


def noise(width: int, height: int) -> Image.Image:
    """Make an image whose RGB sample `i` (row-major) is bits 24 to 31 of `i * 2654435761`."""
    index = np.arange(width * height * 3, dtype=np.uint64)
    samples = ((index * 2654435761) % 2**32 >> 24).astype(np.uint8)
    return Image.fromarray(samples.reshape(height, width, 3))


def sha256(array: np.ndarray) -> str:
    """Return the checksum of the array's bytes, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def jpeg_cases() -> list[dict[str, Any]]:
    """Every recipe of a well-formed JPEG once."""
    recipes = [
        (name, recipe) for name, _, recipe in RECIPES if "jpeg" in name and "other" not in name
    ]
    cases = []
    for number, (name, recipe) in enumerate(recipes):
        if "icc" in name or name.startswith("damaged"):
            continue  # the profile is 100 KB for nothing
        rng = np.random.default_rng([SEED, number])
        width, height = (int(side) for side in rng.integers(1, 40, 2))
        data = recipe(rng, draw_picture(rng, width, height))
        cases += jpeg_case(name, data)
    return cases + header_cases()


def header_cases() -> list[dict[str, Any]]:
    """Odd segments in front of those of a sound gray JPEG."""
    sound = r.save(noise(9, 9).convert("L"), "JPEG")
    cases = []
    for name, segment in SEGMENTS.items():
        cases += jpeg_case(f"header-{name}", sound[:2] + segment + sound[2:])
    return cases


def jpeg_case(name: str, data: bytes) -> list[dict[str, Any]]:
    """A file with its size and pixels; nothing if Pillow refuses it."""
    rgb = oracle_rgb(data)
    if isinstance(rgb, Refusal):
        return []
    case: dict[str, Any] = {"name": name, "file": base64.b64encode(data).decode()}
    case |= {"width": rgb.shape[1], "height": rgb.shape[0], "sha256": sha256(rgb)}
    return [case]


def resize_cases() -> list[dict[str, Any]]:
    """Return cases of all filters and both orders of the passes.

    Two calls give Pillow 12's order, first the horizontal and then the vertical pass.
    """
    cases = []
    for size in SIZES:
        width, height, to_width, to_height = size
        image = noise(width, height)
        for filter_ in Image.Resampling:
            if filter_ > Image.Resampling.HAMMING:
                continue
            pillow13 = image.resize((to_width, to_height), filter_)
            if filter_ == Image.Resampling.NEAREST:
                pillow12 = pillow13
            else:
                pillow12 = image.resize((to_width, height), filter_)
                pillow12 = pillow12.resize((to_width, to_height), filter_)
            for order, result in (("pillow13", pillow13), ("pillow12", pillow12)):
                row = {"size": size, "filter": filter_.name.lower(), "order": order}
                cases.append(row | {"sha256": sha256(np.asarray(result))})
    return cases


def pixel_cases() -> list[dict[str, Any]]:
    """Return pixel_values of one image, with and without rescaling and normalisation, as bits."""
    cases = []
    settings = [{}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 0.0123}]
    settings += [{"do_normalize": False, "do_rescale": False}]
    settings += [{"image_mean": [0.5, 0.1, 0.9], "image_std": [0.3, 0.25, 7.0]}]
    for setting in settings:
        processor = BlipImageProcessorPil(size={"height": 16, "width": 32}, **setting)
        values = processor(images=noise(40, 20), return_tensors="np")["pixel_values"]
        keys = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        fields = {key: getattr(processor, key) for key in keys}
        fields |= {"height": 16, "width": 32, "resample": "bicubic"}
        fields |= {"resize_order": "pillow13", "alpha": "white"}
        bits = values.astype(np.float32).view(np.uint32).reshape(-1)
        cases.append({"config": fields, "first": bits[:3].tolist(), "sha256": sha256(bits)})
    return cases


def write() -> None:
    """Write the file."""
    versions = {"pillow": PIL.__version__, "transformers": transformers.__version__}
    versions |= {"numpy": np.__version__, "machine": platform.machine()}
    golden = {"versions": versions, "jpegs": jpeg_cases(), "resizes": resize_cases()}
    golden["pixel_values"] = pixel_cases()
    lines = [
        f'"{key}": [\n{_rows(value)}\n]' for key, value in golden.items() if isinstance(value, list)
    ]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(
        '{\n"versions": ' + json.dumps(versions) + ",\n" + ",\n".join(lines) + "\n}\n"
    )
    logger.info("wrote %s, %d KB", OUTPUT, OUTPUT.stat().st_size // 1000)


def _rows(rows: list[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(row) for row in rows)
