"""Rows of one decoder step are independent: single and in any batch they have the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blip_onnx.generate import Bundle, KeyValues
from support.exporting import TINY, Exporter


@pytest.fixture(scope="module", params=["fp32", "int8"])
def loaded_bundle(
    request: pytest.FixtureRequest,
    exporter: Exporter,
    tiny: Path,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """The tiny checkpoint in fp32, or with every linear layer in int8."""
    if request.param == "int8":
        bundle = tmp_path_factory.mktemp("rows") / "int8"
        exporter.export(tiny, bundle, "--precision", "int8", "--min-agreement", "0")
    return Bundle(bundle, threads=2)


@pytest.fixture(scope="module")
def cross(loaded_bundle: Bundle) -> KeyValues:
    """Keys and values of 16 images of noise, encoded one at a time as in the service."""
    encoded = [loaded_bundle.encode(image[None]) for image in noise()]
    return [
        tuple(np.concatenate(tensors) for tensors in zip(*layer, strict=True))
        for layer in zip(*encoded, strict=True)
    ]


def noise() -> np.ndarray:
    """Returns 16 images of random noise."""
    shape = (16, 3, TINY.image_size, TINY.image_size)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def random_rows(bundle: Bundle, rows: int, cap: int) -> tuple[np.ndarray, np.ndarray, KeyValues]:
    """Returns new ids, past lengths below `cap` and a cache that is filled up to them."""
    rng = np.random.default_rng(rows * 100 + cap)
    past = rng.integers(0, cap, rows)
    cache = bundle.empty_cache(rows, cap)
    for tensors in cache:
        for tensor in tensors:
            for row, length in enumerate(past):
                tensor[row, :, :length] = rng.standard_normal(tensor[row, :, :length].shape)
    return rng.integers(1000, 30000, (rows, 1)), past, cache


def rows_of(cache: KeyValues, rows: slice) -> KeyValues:
    return [(key[rows].copy(), value[rows].copy()) for key, value in cache]


def test_an_image_is_encoded_to_the_same_bits_single_and_in_a_batch(
    bundle: Path,
) -> None:
    # In fp32; int8 has one scale for all activations of a run.
    loaded = Bundle(bundle, threads=2)
    everything = loaded.encode(noise())
    for image in range(16):
        one = slice(image, image + 1)
        for single, batched in zip(loaded.encode(noise()[one]), everything, strict=True):
            assert np.array_equal(single[0], batched[0][one])
            assert np.array_equal(single[1], batched[1][one])


@pytest.mark.parametrize(
    ("images", "beams"),
    [(16, 1), (7, 1), (2, 1)] + [(images, beams) for images in (2, 4) for beams in (2, 3, 4, 5)],
)
def test_the_rows_of_an_image_have_the_same_bits_single_and_in_a_batch(
    loaded_bundle: Bundle, cross: KeyValues, images: int, beams: int
) -> None:
    ids, past, cache = random_rows(loaded_bundle, images * beams, cap=32)
    everything = rows_of(cache, slice(None))
    batched = loaded_bundle.step(ids, past, everything, rows_of(cross, slice(images)))
    for image in range(images):
        own = slice(image * beams, (image + 1) * beams)
        own_cross = rows_of(cross, slice(image, image + 1))
        single = loaded_bundle.step(ids[own], past[own], rows_of(cache, own), own_cross)
        assert np.array_equal(single, batched[own])


@pytest.mark.parametrize(
    "beams", [[1, 3], [3, 1, 1], [1, 2, 5], [1] * 13 + [3], [4, 4, 1, 7], [1, 16], [32, 1]]
)
def test_images_with_different_numbers_of_beams_share_a_step(
    loaded_bundle: Bundle, cross: KeyValues, beams: list[int]
) -> None:
    ids, past, cache = random_rows(loaded_bundle, sum(beams), cap=32)
    everything = rows_of(cache, slice(None))
    own_cross = rows_of(cross, slice(len(beams)))
    batched = loaded_bundle.step_mixed(ids, past, beams, everything, own_cross)
    start = 0
    for image, rows in enumerate(beams):
        own = slice(start, start + rows)
        start += rows
        own_cross = rows_of(cross, slice(image, image + 1))
        single = loaded_bundle.step(ids[own], past[own], rows_of(cache, own), own_cross)
        assert np.array_equal(single, batched[own])


def test_rows_have_the_same_bits_with_any_capacity_of_the_cache(
    loaded_bundle: Bundle, cross: KeyValues
) -> None:
    ids, past, cache = random_rows(loaded_bundle, rows=6, cap=8)
    own_cross = rows_of(cross, slice(2))
    expected = loaded_bundle.step(ids, past, rows_of(cache, slice(None)), own_cross)
    for cap in (9, 12, 16, 17, 31, 32, 48, 64):
        larger = loaded_bundle.empty_cache(6, cap)
        for (key, value), (small_key, small_value) in zip(larger, cache, strict=True):
            key[:, :, :8], value[:, :, :8] = small_key, small_value
        assert np.array_equal(loaded_bundle.step(ids, past, larger, own_cross), expected)
