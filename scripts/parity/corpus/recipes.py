"""One recipe for each kind of image file: a function from pixels to the bytes of a file.

The name of a recipe describes the file. Names that start with `other-` are formats that the service
refuses although Pillow reads them; `damaged-` files are damaged on purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from parity.corpus.encoders import PngLayout, TiffLayout, adobe_segment, jpeg_from_planes, png, tiff

Rng = np.random.Generator
Recipe = Callable[[Rng, np.ndarray], bytes]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = BytesIO()
    try:
        image.save(buffer, kind, **options)
    except OSError:
        # The buffer of Pillow's progressive JPEG encoder is too small for very noisy pictures.
        buffer = BytesIO()
        image.filter(ImageFilter.BoxBlur(2)).save(buffer, kind, **options)
    return buffer.getvalue()


def via_pillow(mode: str, kind: str, **options: Any) -> Recipe:
    """A recipe that converts to `mode` and lets Pillow write it."""
    return lambda rng, rgb: save(with_mode(rng, rgb, mode), kind, **options)


def with_mode(rng: Rng, rgb: np.ndarray, mode: str) -> Image.Image:
    """Convert the image to a Pillow mode; modes with alpha get a varied alpha channel."""
    image = Image.fromarray(rgb)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(alpha_plane(rng, rgb)))
    elif mode == "P":
        image = image.quantize(int(rng.integers(2, 257)))
    elif mode == "I;16":
        image = Image.fromarray(gray16(rgb))
    elif mode == "F":
        image = image.convert("L").convert("F")
    else:
        image = image.convert(mode)
    return image


def alpha_plane(rng: Rng, rgb: np.ndarray) -> np.ndarray:
    """`[h, w]` alpha: a ramp with fully clear and fully opaque parts and some noise."""
    height, width, _ = rgb.shape
    ramp = np.linspace(-80, 335, width)[None, :] + np.linspace(-40, 40, height)[:, None]
    return np.clip(ramp + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)


def gray16(rgb: np.ndarray) -> np.ndarray:
    """`[h, w]` 16-bit gray, half of it below 256, where Pillow does not clip."""
    wide = rgb[:, :, 1].astype(np.uint16)
    return np.where(rgb[:, :, 0] > 127, wide * 257, wide).astype(np.uint16)


# JPEG


def jpeg_planes(mode: str, factors: list[tuple[int, int]], transform: int | None) -> Recipe:
    """A multi-scan JPEG of the components of `mode`, at the sampling factors given."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        image = Image.fromarray(rgb)
        if mode == "YCCK":
            cmyk = np.asarray(image.convert("CMYK"))
            inverted = Image.fromarray(np.ascontiguousarray(255 - cmyk[:, :, :3]))
            ycc = np.asarray(inverted.convert("YCbCr"))
            planes = [ycc[:, :, 0], ycc[:, :, 1], ycc[:, :, 2], 255 - cmyk[:, :, 3]]
        else:
            array = np.asarray(image.convert(mode))
            planes = [array[:, :, c] for c in range(array.shape[2])]
        app = b"" if transform is None else adobe_segment(transform)
        return jpeg_from_planes([np.ascontiguousarray(p) for p in planes], factors, app=app)

    return make


def jpeg_mpo(rng: Rng, rgb: np.ndarray) -> bytes:
    """Two images in one file, as stereo cameras write them."""
    first = Image.fromarray(rgb)
    return save(
        first,
        "MPO",
        save_all=True,
        append_images=[first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)],
    )


def jpeg_exif(rng: Rng, rgb: np.ndarray) -> bytes:
    """An orientation that must be ignored."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(2, 9))
    return save(Image.fromarray(rgb), "JPEG", exif=exif)


def jpeg_twelve_bit(rng: Rng, rgb: np.ndarray) -> bytes:
    """A header that says 12 bits a sample."""
    data = bytearray(save(Image.fromarray(rgb), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def truncated(recipe: Recipe) -> Recipe:
    """Cut anywhere after the first bytes, more often near the end."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        data = recipe(rng, rgb)
        return data[: max(4, len(data) - 1 - int(len(data) * rng.random() ** 3))]

    return make


def flipped(recipe: Recipe) -> Recipe:
    """One to three bytes replaced, anywhere after the signature."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        data = bytearray(recipe(rng, rgb))
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(min(16, len(data) - 1), len(data)))] = int(rng.integers(0, 256))
        return bytes(data)

    return make


def followed_by(recipe: Recipe, tail: bytes) -> Recipe:
    """Something after the end of the image."""
    return lambda rng, rgb: recipe(rng, rgb) + tail


# PNG


def png_gray(depth: int, *, interlaced: bool = False, transparent: bool = False) -> Recipe:
    """Gray of 1 to 16 bits, with an optional transparent shade."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        samples = gray16(rgb) if depth == 16 else rgb[:, :, 1] >> (8 - depth)
        shade = struct.pack(">H", int(samples.flat[samples.size // 2])) if transparent else None
        return png(samples[:, :, None], PngLayout(depth, 0, interlaced, transparency=shade))

    return make


def png_palette(
    depth: int, *, interlaced: bool = False, transparent: bool = False, short: bool = False
) -> Recipe:
    """Palette of 1 to 8 bits; `short`: fewer entries than indices used."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        index = rgb[:, :, 1] >> (8 - depth)
        count = 2**depth
        colours = rng.integers(
            0, 256, 3 * max(1, count // 2 if short else count), dtype=np.uint8
        ).tobytes()
        alphas = (
            rng.integers(0, 256, max(1, count // 2), dtype=np.uint8).tobytes()
            if transparent
            else None
        )
        return png(index[:, :, None], PngLayout(depth, 3, interlaced, colours, alphas))

    return make


def png_colour(
    depth: int, colour_type: int, *, interlaced: bool = False, transparent: bool = False
) -> Recipe:
    """RGB, gray with alpha or RGBA, of 8 or 16 bits."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        alpha = alpha_plane(rng, rgb)[:, :, None]
        bands = {2: [rgb], 4: [rgb[:, :, :1], alpha], 6: [rgb, alpha]}[colour_type]
        samples = np.concatenate(bands, axis=2).astype(np.uint16)
        if depth == 16:
            samples = samples * 256 + rng.integers(0, 256, samples.shape, dtype=np.uint16)
        key = None
        if transparent:
            key = struct.pack(
                ">3H", *map(int, samples[samples.shape[0] // 2, samples.shape[1] // 2])
            )
        return png(samples, PngLayout(depth, colour_type, interlaced, transparency=key))

    return make


def png_bad_crc(rng: Rng, rgb: np.ndarray) -> bytes:
    """A wrong checksum on the pixel data."""
    return png(rgb, PngLayout(8, 2, bad_crc=True))


# GIF


def gif_animated(*, transparent: bool) -> Recipe:
    """Three frames; only what changes is stored in the later ones."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        frames = [Image.fromarray(np.roll(rgb, shift, axis=1)).quantize(64) for shift in (0, 3, 9)]
        options: dict[str, Any] = {"transparency": 5, "disposal": 2} if transparent else {}
        return save(
            frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50, **options
        )

    return make


def gif_offset(*, transparent: bool, background: int = 0) -> Recipe:
    """The first frame covers only a part of a larger screen."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        options = {"transparency": 3} if transparent else {}
        image = Image.fromarray(rgb).quantize(32)
        data = bytearray(save(image, "GIF", interlace=int(rng.integers(0, 2)), **options))
        left, top, right, bottom = (int(v) for v in rng.integers(0, 20, 4))
        struct.pack_into("<HH", data, 6, image.width + left + right, image.height + top + bottom)
        data[11] = background
        at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
        while data[at] != 0x2C:  # extension blocks before the image descriptor
            at += 2
            while data[at]:
                at += data[at] + 1
            at += 1
        struct.pack_into("<HH", data, at + 1, left, top)
        return bytes(data)

    return make


# TIFF


def tiff_from(bands: str, **layout: Any) -> Recipe:
    """TIFF made by hand from the bands `r`, `g`, `b`, `a`, 16-bit gray `w`, or an index `i`."""

    def make(rng: Rng, rgb: np.ndarray) -> bytes:
        alpha = alpha_plane(rng, rgb)
        index = rgb[:, :, 1] >> (8 - min(8, layout.get("bits", 8)))
        sources = {
            "r": rgb[:, :, 0],
            "g": rgb[:, :, 1],
            "b": rgb[:, :, 2],
            "a": alpha,
            "w": gray16(rgb),
            "i": index,
        }
        options = dict(layout)
        if options["photometric"] == 3:
            options["palette"] = rng.integers(0, 65536, (2 ** options.get("bits", 8), 3))
        return tiff(np.stack([sources[b] for b in bands], axis=2), TiffLayout(**options))

    return make


def by_hand(encode: Callable[..., bytes], *args: Any, **options: Any) -> Recipe:
    """A recipe from an encoder that takes the pixels first."""
    return lambda rng, rgb: encode(rgb, *args, **options)


def fixed(data: bytes) -> Recipe:
    """Return a recipe that always gives the same bytes."""
    return lambda rng, rgb: data


def animated_webp(rng: Rng, rgb: np.ndarray) -> bytes:
    """Two frames, lossy."""
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    return save(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=80)


def jpeg_mixed(rng: Rng, rgb: np.ndarray) -> bytes:
    """A JPEG with settings drawn at random."""
    options: dict[str, Any] = {
        "quality": int(rng.integers(1, 101)),
        "subsampling": int(rng.integers(0, 3)),
    }
    options |= {"progressive": bool(rng.integers(0, 2)), "optimize": bool(rng.integers(0, 2))}
    return save(Image.fromarray(rgb), "JPEG", **options)


jpeg = partial(via_pillow, "RGB", "JPEG")
