"""The pixels that the decoders' unit tests expect are those of the oracle, which decodes each sample here."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_transforms import convert_to_rgb

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT / "src" / "image" / "decode" / "samples.txt"


def oracle(file: bytes, alpha: str) -> tuple[str, str]:
    """Returns size and RGB bytes in hexadecimal, or "refused"."""
    try:
        image = Image.open(io.BytesIO(file))
        if alpha == "white":
            pixels = convert_to_rgb(image, return_numpy=True)
        else:
            pixels = np.array(image.convert("RGB"))
    except Exception:  # Pillow raises what it likes on damaged files
        return "refused", "refused"
    return f"{pixels.shape[1]}x{pixels.shape[0]}", np.ascontiguousarray(pixels).tobytes().hex()


def test_expected_pixels_are_those_of_the_oracle() -> None:
    lines = [line for line in SAMPLES.read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) >= 40
    for line in lines:
        name, alpha, file, size, rgb = (field.strip() for field in line.split("|"))
        got = oracle(bytes.fromhex(file), alpha)
        assert got[0].replace(" ", "") == size.replace(" ", "") and got[1] == rgb, name
