"""The table of all kinds of image files: name, file suffix, recipe."""

from __future__ import annotations

from parity.corpus import encoders
from parity.corpus import recipes as r
from parity.corpus.recipes import (
    Recipe,
    by_hand,
    fixed,
    flipped,
    followed_by,
    jpeg,
    tiff_from,
    truncated,
    via_pillow,
)

QUALITIES = (5, 50, 75, 92, 100)
SUBSAMPLINGS = {"444": 0, "422": 1, "420": 2}
FACTORS = {"440": (1, 2), "411": (4, 1), "410": (4, 2), "441": (1, 4), "420": (2, 2)}

_JPEG: dict[str, Recipe] = {
    **{
        f"jpeg-{n}-q{q}": jpeg(subsampling=s, quality=q)
        for n, s in SUBSAMPLINGS.items()
        for q in QUALITIES
    },
    **{
        f"jpeg-progressive-{n}-q{q}": jpeg(subsampling=s, quality=q, progressive=True)
        for n, s in SUBSAMPLINGS.items()
        for q in QUALITIES
    },
    **{
        f"jpeg-scans-{n}": r.jpeg_planes("YCbCr", [f, (1, 1), (1, 1)], None)
        for n, f in FACTORS.items()
    },
    "jpeg-scans-rgb": r.jpeg_planes("RGB", [(1, 1)] * 3, 0),
    "jpeg-scans-rgb-420": r.jpeg_planes("RGB", [(2, 2), (1, 1), (1, 1)], 0),
    "jpeg-scans-odd-factors": r.jpeg_planes("YCbCr", [(2, 2), (2, 1), (1, 2)], None),
    "jpeg-scans-ycck": r.jpeg_planes("YCCK", [(1, 1)] * 4, 2),
    "jpeg-scans-ycck-420": r.jpeg_planes("YCCK", [(2, 2), (1, 1), (1, 1), (2, 2)], 2),
    "jpeg-scans-cmyk-plain": r.jpeg_planes("CMYK", [(1, 1)] * 4, None),
    "jpeg-gray": via_pillow("L", "JPEG"),
    "jpeg-gray-progressive": via_pillow("L", "JPEG", progressive=True, quality=30),
    "jpeg-cmyk": via_pillow("CMYK", "JPEG", quality=85),
    "jpeg-cmyk-progressive": via_pillow("CMYK", "JPEG", progressive=True),
    "jpeg-keep-rgb": jpeg(keep_rgb=True, quality=85),
    "jpeg-restart-blocks": jpeg(restart_marker_blocks=3),
    "jpeg-restart-rows": jpeg(restart_marker_rows=1, subsampling=0),
    "jpeg-restart-progressive": jpeg(restart_marker_rows=1, progressive=True),
    "jpeg-optimised": jpeg(optimize=True),
    "jpeg-comment-icc": jpeg(comment=b"a comment", icc_profile=b"not a profile" * 9000),
    "jpeg-mixed": r.jpeg_mixed,
    "jpeg-exif-rotated": r.jpeg_exif,
    "jpeg-mpo": r.jpeg_mpo,
    "jpeg-trailing-garbage": followed_by(jpeg(), b"\x00garbage\xff\xd8\xff" * 99),
    "damaged-jpeg-truncated": truncated(r.jpeg_mixed),
    "damaged-jpeg-progressive-truncated": truncated(jpeg(progressive=True)),
    "damaged-jpeg-flipped": flipped(r.jpeg_mixed),
    "damaged-jpeg-restart-flipped": flipped(jpeg(restart_marker_blocks=5)),
    "damaged-jpeg-12-bit": r.jpeg_twelve_bit,
    "damaged-jpeg-no-end": lambda rng, rgb: r.jpeg_mixed(rng, rgb)[:-2],
}

_PNG: dict[str, Recipe] = {
    **{
        f"png-gray{depth}{'-tRNS' * trns}{'-adam7' * lace}": r.png_gray(
            depth, interlaced=lace, transparent=trns
        )
        for depth in (1, 2, 4, 8, 16)
        for trns in (False, True)
        for lace in (False, True)
    },
    **{
        f"png-palette{depth}{'-tRNS' * trns}{'-adam7' * lace}": r.png_palette(
            depth, interlaced=lace, transparent=trns
        )
        for depth in (1, 2, 4, 8)
        for trns in (False, True)
        for lace in (False, True)
    },
    **{
        f"png-type{kind}-{depth}{'-adam7' * lace}": r.png_colour(depth, kind, interlaced=lace)
        for kind in (2, 4, 6)
        for depth in (8, 16)
        for lace in (False, True)
    },
    "png-rgb8-tRNS": r.png_colour(8, 2, transparent=True),
    "png-rgb16-tRNS": r.png_colour(16, 2, transparent=True),
    "png-palette4-short": r.png_palette(4, short=True),
    "png-palette8-short": r.png_palette(8, short=True),
    **{
        f"png-pillow-{mode}": via_pillow(mode, "PNG")
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    },
    "png-animated": lambda rng, rgb: r.save(
        r.Image.fromarray(rgb), "PNG", save_all=True, append_images=[r.Image.fromarray(255 - rgb)]
    ),
    "png-trailing-garbage": followed_by(via_pillow("RGB", "PNG"), b"garbage" * 50),
    "damaged-png-truncated": truncated(via_pillow("RGB", "PNG")),
    "damaged-png-adam7-truncated": truncated(r.png_colour(8, 2, interlaced=True)),
    "damaged-png-flipped": flipped(via_pillow("RGBA", "PNG")),
    "damaged-png-crc": r.png_bad_crc,
}

_GIF: dict[str, Recipe] = {
    "gif-rgb": via_pillow("RGB", "GIF"),
    "gif-gray": via_pillow("L", "GIF"),
    "gif-bilevel": via_pillow("1", "GIF"),
    "gif-palette": via_pillow("P", "GIF", interlace=0),
    "gif-palette-interlaced": via_pillow("P", "GIF", interlace=1),
    "gif-transparent": via_pillow("P", "GIF", transparency=1),
    "gif-from-rgba": via_pillow("RGBA", "GIF"),
    "gif-animated": r.gif_animated(transparent=False),
    "gif-animated-transparent": r.gif_animated(transparent=True),
    "gif-offset": r.gif_offset(transparent=False),
    "gif-offset-background": r.gif_offset(transparent=False, background=7),
    "gif-offset-transparent": r.gif_offset(transparent=True),
    "damaged-gif-truncated": truncated(via_pillow("P", "GIF")),
    "damaged-gif-flipped": flipped(via_pillow("P", "GIF")),
}

_WEBP: dict[str, Recipe] = {
    **{
        f"webp-lossy-q{q}": via_pillow("RGB", "WEBP", quality=q, method=2) for q in (1, 40, 80, 100)
    },
    "webp-lossless": via_pillow("RGB", "WEBP", lossless=True, method=0),
    "webp-lossy-alpha": via_pillow("RGBA", "WEBP", quality=70, method=2),
    "webp-lossy-alpha-rough": via_pillow("RGBA", "WEBP", quality=70, alpha_quality=20, method=2),
    "webp-lossless-alpha": via_pillow("RGBA", "WEBP", lossless=True, method=0),
    "webp-lossless-alpha-exact": via_pillow("RGBA", "WEBP", lossless=True, exact=True, method=0),
    "webp-animated": r.animated_webp,
    "webp-exif-icc": via_pillow("RGB", "WEBP", exif=b"Exif\0\0II*\0", icc_profile=b"profile"),
    "damaged-webp-truncated": truncated(via_pillow("RGB", "WEBP")),
    "damaged-webp-lossless-truncated": truncated(
        via_pillow("RGBA", "WEBP", lossless=True, method=0)
    ),
    "damaged-webp-flipped": flipped(via_pillow("RGB", "WEBP")),
}

_BMP: dict[str, Recipe] = {
    **{f"bmp-pillow-{mode}": via_pillow(mode, "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"bmp-{bits}": by_hand(encoders.bmp, bits) for bits in (1, 4, 8, 16, 24, 32)},
    **{
        f"bmp-{bits}-top-down": by_hand(encoders.bmp, bits, top_down=True)
        for bits in (4, 8, 16, 24, 32)
    },
    **{f"bmp-{bits}-os2": by_hand(encoders.bmp, bits, core_header=True) for bits in (1, 4, 8, 24)},
    "bmp-565": by_hand(encoders.bmp_565),
    "damaged-bmp-truncated": truncated(via_pillow("RGB", "BMP")),
    "damaged-bmp-flipped": flipped(via_pillow("P", "BMP")),
}

_COMPRESSIONS = {
    "none": None,
    "lzw": "tiff_lzw",
    "deflate": "tiff_adobe_deflate",
    "packbits": "packbits",
}
_TIFF: dict[str, Recipe] = {
    **{
        f"tiff-{mode}-{name}": via_pillow(mode, "TIFF", compression=compression)
        for mode in ("L", "LA", "P", "RGB", "RGBA")
        for name, compression in _COMPRESSIONS.items()
    },
    "tiff-rgb-lzw-predictor": via_pillow("RGB", "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "tiff-rgba-deflate-predictor": via_pillow(
        "RGBA", "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}
    ),
    "tiff-orientation": via_pillow("RGB", "TIFF", tiffinfo={274: 6}),
    "tiff-hand-rgb-big-endian": tiff_from("rgb", photometric=2, big_endian=True),
    "tiff-hand-rgb-deflate-tiles": tiff_from("rgb", photometric=2, deflate=True, tile=32),
    "tiff-hand-rgb-tiles": tiff_from("rgb", photometric=2, tile=64),
    "tiff-hand-rgb-planar": tiff_from("rgb", photometric=2, planar=True),
    "tiff-hand-rgba-unassociated": tiff_from("rgba", photometric=2, extra_sample=2),
    "tiff-hand-rgba-associated": tiff_from("rgba", photometric=2, extra_sample=1),
    "tiff-hand-rgbx": tiff_from("rgba", photometric=2, extra_sample=0),
    "tiff-hand-gray": tiff_from("g", photometric=1, rows_per_strip=7),
    "tiff-hand-gray-inverted": tiff_from("g", photometric=0),
    "tiff-hand-palette": tiff_from("i", photometric=3),
    "other-tiff-hand-palette4": tiff_from("i", photometric=3, bits=4),
    "other-tiff-hand-gray4": tiff_from("i", photometric=1, bits=4),
    "other-tiff-hand-gray16": tiff_from("w", photometric=1, bits=16),
    "other-tiff-hand-gray16-big-endian": tiff_from("w", photometric=1, bits=16, big_endian=True),
    "other-tiff-bilevel": via_pillow("1", "TIFF"),
    "other-tiff-group4": via_pillow("1", "TIFF", compression="group4"),
    "other-tiff-cmyk": via_pillow("CMYK", "TIFF"),
    "other-tiff-float": via_pillow("F", "TIFF"),
    "other-tiff-jpeg": via_pillow("RGB", "TIFF", compression="jpeg"),
    "other-tiff-big": via_pillow("RGB", "TIFF", big_tiff=True),
    "damaged-tiff-truncated": truncated(via_pillow("RGB", "TIFF", compression="tiff_lzw")),
    "damaged-tiff-flipped": flipped(via_pillow("RGB", "TIFF")),
}

_OTHER: dict[str, tuple[str, Recipe]] = {
    "damaged-empty": ("bin", fixed(b"")),
    "damaged-text": ("txt", fixed(b"this is not an image\n" * 20)),
    "damaged-html": ("html", fixed(b"<!doctype html><title>404</title>")),
    "damaged-signature-only": ("png", fixed(b"\x89PNG\r\n\x1a\n")),
    "other-ppm": ("ppm", via_pillow("RGB", "PPM")),
    "other-tga": ("tga", via_pillow("RGB", "TGA")),
    "other-jpeg2000": ("jp2", via_pillow("RGB", "JPEG2000")),
    "other-avif": ("avif", via_pillow("RGB", "AVIF", speed=10)),
}

RECIPES: list[tuple[str, str, Recipe]] = [
    (name, suffix, recipe)
    for suffix, recipes in {
        "jpg": _JPEG,
        "png": _PNG,
        "gif": _GIF,
        "webp": _WEBP,
        "bmp": _BMP,
        "tiff": _TIFF,
    }.items()
    for name, recipe in recipes.items()
] + [(name, suffix, recipe) for name, (suffix, recipe) in _OTHER.items()]
