"""The pixels that the decoders' unit tests expect are those of the oracle, which decodes each sample here."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_transforms import convert_to_rgb

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT / "crates" / "image-processor" / "src" / "decode" / "samples.txt"


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
    samples = [[field.strip() for field in line.split("|")] for line in lines]
    well_formed = [sample for sample in samples if sample[3] != "damaged"]
    assert len(well_formed) >= 29
    for name, alpha, file, size, rgb in well_formed:
        expected_size, expected_rgb = oracle(bytes.fromhex(file), alpha)
        assert (size.replace(" ", ""), rgb) == (expected_size, expected_rgb), name
