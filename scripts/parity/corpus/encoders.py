"""Image encoders for the variants that Pillow cannot write.

Each function takes samples as a numpy array and returns the bytes of a file. They aim at coverage
of the formats, not at small files.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def pack_rows(samples: np.ndarray, depth: int) -> np.ndarray:
    """`[h, w, channels]` -> `[h, row_bytes]`, high bits first, rows padded to a byte."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, width * channels)
    if depth == 16:
        return flat.astype(">u2").view(np.uint8).reshape(height, -1)
    if depth == 8:
        return flat.astype(np.uint8)
    shifts = np.arange(depth - 1, -1, -1)
    bits = (flat[:, :, None] >> shifts) & 1
    return np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)


@dataclass(frozen=True)
class PngLayout:
    """How to lay out a PNG: the colour type is that of the specification (0, 2, 3, 4, 6)."""

    depth: int
    colour_type: int
    interlaced: bool = False
    palette: bytes | None = None
    transparency: bytes | None = None
    bad_crc: bool = False
    extra: tuple[tuple[bytes, bytes], ...] = ()


def png(samples: np.ndarray, layout: PngLayout) -> bytes:
    """Any PNG: depths 1 to 16, all colour types, Adam7, all five row filters in turn."""
    height, width, channels = samples.shape
    bytes_per_pixel = max(1, channels * layout.depth // 8)
    passes = ADAM7 if layout.interlaced else ((0, 0, 1, 1),)
    raw = bytearray()
    for left, top, step_x, step_y in passes:
        part = samples[top::step_y, left::step_x]
        if part.size:
            raw += _filtered(pack_rows(part, layout.depth), bytes_per_pixel)
    header = struct.pack(
        ">IIBBBBB", width, height, layout.depth, layout.colour_type, 0, 0, int(layout.interlaced)
    )
    chunks = [(b"IHDR", header), *layout.extra]
    if layout.palette is not None:
        chunks.append((b"PLTE", layout.palette))
    if layout.transparency is not None:
        chunks.append((b"tRNS", layout.transparency))
    data = zlib.compress(bytes(raw), 1)
    half = len(data) // 2
    chunks += [(b"IDAT", data[:half]), (b"IDAT", data[half:]), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        crc = zlib.crc32(kind + body) ^ int(layout.bad_crc and kind == b"IDAT")
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)
    return out


def _filtered(rows: np.ndarray, bpp: int) -> bytes:
    """Apply filter `row % 5` to each row, with its filter byte in front."""
    height, length = rows.shape
    grid = np.zeros((height + 1, length + bpp), np.int16)
    grid[1:, bpp:] = rows
    here, left, up, corner = grid[1:, bpp:], grid[1:, :-bpp], grid[:-1, bpp:], grid[:-1, :-bpp]
    guess = left + up - corner
    near_a, near_b, near_c = np.abs(guess - left), np.abs(guess - up), np.abs(guess - corner)
    paeth = np.where(
        (near_a <= near_b) & (near_a <= near_c), left, np.where(near_b <= near_c, up, corner)
    )
    predictions = (np.zeros_like(here), left, up, (left + up) // 2, paeth)
    out = np.empty((height, length + 1), np.uint8)
    for kind, prediction in enumerate(predictions):
        out[kind::5, 0] = kind
        out[kind::5, 1:] = (here - prediction)[kind::5].astype(np.uint8)
    return out.tobytes()


def bmp(
    pixels: np.ndarray, bits: int, *, top_down: bool = False, core_header: bool = False
) -> bytes:
    """Uncompressed RGB BMP of 16 (555), 24 or 32 bits, or 1, 4, 8 bits of gray palette."""
    height, width, _ = pixels.shape
    palette = b""
    bgr = pixels[:, :, ::-1].astype(np.uint16)
    if bits <= 8:
        levels = 2**bits
        index = (pixels[:, :, 1:2].astype(np.uint16) * levels) >> 8
        rows = pack_rows(index, bits)
        shades = (np.arange(levels) * 255 // (levels - 1)).astype(np.uint8)
        entry = 3 if core_header else 4
        palette = b"".join(bytes([s, 255 - s, s // 2, 0][:entry]) for s in shades)
    elif bits == 16:
        rows = (
            (bgr[:, :, 0] >> 3) | ((bgr[:, :, 1] >> 3) << 5) | ((bgr[:, :, 2] >> 3) << 10)
        ).astype("<u2")
        rows = rows.view(np.uint8).reshape(height, -1)
    elif bits == 24:
        rows = bgr.astype(np.uint8).reshape(height, -1)
    else:
        alpha = np.full((height, width, 1), 77, np.uint8)
        rows = np.concatenate([bgr.astype(np.uint8), alpha], axis=2).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    body = (rows if top_down else rows[::-1]).tobytes()
    if core_header:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack(
            "<IiiHHIIiiII", 40, width, -height if top_down else height, 1, bits, 0, 0, 0, 0, 0, 0
        )
    offset = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + info + palette + body


def bmp_565(pixels: np.ndarray) -> bytes:
    """BMP with BITFIELDS masks, 16 bits as 5-6-5."""
    height, width, _ = pixels.shape
    wide = pixels.astype(np.uint16)
    packed = ((wide[:, :, 0] >> 3) << 11) | ((wide[:, :, 1] >> 2) << 5) | (wide[:, :, 2] >> 3)
    rows = packed.astype("<u2").view(np.uint8).reshape(height, -1)
    body = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1].tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    return struct.pack("<2sIHHI", b"BM", 66 + len(body), 0, 0, 66) + info + masks + body


@dataclass(frozen=True)
class TiffLayout:
    """How to lay out a TIFF: photometric 0-5 of the specification; 1, 4, 8 or 16 bits a sample."""

    photometric: int
    bits: int = 8
    big_endian: bool = False
    tile: int = 0
    planar: bool = False
    deflate: bool = False
    rows_per_strip: int = 16
    palette: np.ndarray | None = None
    extra_sample: int | None = None


def tiff(samples: np.ndarray, layout: TiffLayout) -> bytes:
    """TIFF with strips or tiles, chunky or planar, either byte order, uncompressed or deflate."""
    height, width, channels = samples.shape
    order = ">" if layout.big_endian else "<"
    planes = [samples[:, :, c : c + 1] for c in range(channels)] if layout.planar else [samples]
    blocks = [
        _tiff_bytes(block, layout) for plane in planes for block in _tiff_blocks(plane, layout)
    ]
    if layout.deflate:
        blocks = [zlib.compress(block, 1) for block in blocks]
    offsets = np.cumsum([8, *map(len, blocks)])
    long, short = "I", "H"
    tags: dict[int, tuple[str, list[int]]] = {
        256: (long, [width]),
        257: (long, [height]),
        258: (short, [layout.bits] * channels),
        259: (short, [8 if layout.deflate else 1]),
        262: (short, [layout.photometric]),
        277: (short, [channels]),
        284: (short, [2 if layout.planar else 1]),
    }
    if layout.tile:
        tags |= {322: (long, [layout.tile]), 323: (long, [layout.tile])}
        tags |= {324: (long, list(offsets[:-1])), 325: (long, list(map(len, blocks)))}
    else:
        tags |= {278: (long, [layout.rows_per_strip])}
        tags |= {273: (long, list(offsets[:-1])), 279: (long, list(map(len, blocks)))}
    if layout.palette is not None:
        tags[320] = (short, list(layout.palette.T.reshape(-1).astype(int)))
    if layout.extra_sample is not None:
        tags[338] = (short, [layout.extra_sample])
    body = b"".join(blocks)
    return _tiff_file(body, tags, order)


def _tiff_blocks(plane: np.ndarray, layout: TiffLayout) -> list[np.ndarray]:
    height, width, _ = plane.shape
    size = layout.tile
    if not size:
        step = layout.rows_per_strip
        return [plane[top : top + step] for top in range(0, height, step)]
    padded = np.pad(plane, ((0, -height % size), (0, -width % size), (0, 0)), mode="edge")
    rows, columns = range(0, padded.shape[0], size), range(0, padded.shape[1], size)
    return [padded[top : top + size, left : left + size] for top in rows for left in columns]


def _tiff_bytes(block: np.ndarray, layout: TiffLayout) -> bytes:
    if layout.bits == 16:
        return block.astype(">u2" if layout.big_endian else "<u2").tobytes()
    return pack_rows(block, layout.bits).tobytes()


def _tiff_file(body: bytes, tags: dict[int, tuple[str, list[int]]], order: str) -> bytes:
    """Header, `body` at offset 8, then the directory."""
    body += b"\0" * (len(body) % 2)
    start = 8 + len(body)
    overflow_at = start + 2 + 12 * len(tags) + 4
    entries, overflow = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *map(int, values))
        code = 4 if kind == "I" else 3
        if len(data) > 4:
            pointer = struct.pack(f"{order}I", overflow_at + len(overflow))
            overflow += data + b"\0" * (len(data) % 2)
            data = pointer
        entries += struct.pack(f"{order}HHI", tag, code, len(values)) + data.ljust(4, b"\0")
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, start)
    return (
        head
        + body
        + struct.pack(f"{order}H", len(tags))
        + entries
        + struct.pack(f"{order}I", 0)
        + overflow
    )


def jpeg_from_planes(
    planes: list[np.ndarray], factors: list[tuple[int, int]], *, app: bytes = b""
) -> bytes:
    """A baseline JPEG with one scan for each component, at any sampling factors.

    `planes` are full-size 8-bit components as stored in the file; each is shrunk to its factor
    (horizontal, vertical) and encoded by Pillow as a gray JPEG, whose entropy-coded data then
    become one scan.
    """
    height, width = planes[0].shape
    most_h, most_v = max(h for h, _ in factors), max(v for _, v in factors)
    frame = struct.pack(">BHHB", 8, height, width, len(planes))
    tables, scans = b"", b""
    for number, (plane, (h, v)) in enumerate(zip(planes, factors, strict=True), 1):
        size = (-(-width * h // most_h), -(-height * v // most_v))
        buffer = BytesIO()
        Image.fromarray(plane).resize(size, Image.Resampling.BOX).save(buffer, "JPEG", quality=80)
        tables, data = _tables_and_scan(buffer.getvalue())
        frame += bytes([number, h << 4 | v, 0])
        scans += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, number, 0x00, 0, 63, 0) + data
    sof = b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
    return b"\xff\xd8" + app + tables + sof + scans + b"\xff\xd9"


def _tables_and_scan(jpeg: bytes) -> tuple[bytes, bytes]:
    """The DQT and DHT segments of a one-scan JPEG, and its entropy-coded data."""
    tables, at = b"", 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
        if jpeg[at + 1] in (0xDB, 0xC4):
            tables += jpeg[at : at + length]
        at += length
    start = at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    return tables, jpeg[start:-2]


def adobe_segment(transform: int) -> bytes:
    """An APP14 Adobe segment: transform 0 (RGB, CMYK), 1 (YCbCr) or 2 (YCCK)."""
    return b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, transform)
