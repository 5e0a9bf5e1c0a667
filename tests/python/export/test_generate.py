"""The numpy search loops over an exported bundle give the output of transformers' generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BlipForConditionalGeneration

from blip_onnx.generate import Bundle, CachedDecoder, SearchConfig, beam_search, greedy_search
from support.exporting import TINY

EOS = 102


@pytest.fixture(scope="module")
def model(tiny: Path) -> BlipForConditionalGeneration:
    """The oracle."""
    return BlipForConditionalGeneration.from_pretrained(tiny).eval()


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    """The bundle exported from the oracle's weights."""
    return Bundle(bundle, threads=1)


def oracle(
    model: BlipForConditionalGeneration, pixels: np.ndarray, **settings: Any
) -> tuple[list[int], float]:
    output = model.generate(
        torch.from_numpy(pixels),
        max_new_tokens=12,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    ids = output.sequences[0].tolist()
    end = ids.index(EOS) + 1 if EOS in ids else len(ids)
    scores = output.get("sequences_scores")
    return ids[:end], float("nan") if scores is None else float(scores[0])


def pixels_of(image: int) -> np.ndarray:
    shape = (1, 3, TINY.image_size, TINY.image_size)
    return np.random.default_rng(image).standard_normal(shape, np.float32)


def test_greedy_search_equals_generate(model: BlipForConditionalGeneration, loaded: Bundle) -> None:
    for image in range(4):
        decoder = CachedDecoder(loaded, loaded.encode(pixels_of(image)), 16)
        ours = greedy_search(decoder, [30522], SearchConfig(EOS, max_new_tokens=12))
        assert ours == oracle(model, pixels_of(image))[0]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 1.0), (3, 0.0), (4, 2.0), (5, -0.5)])
def test_beam_search_equals_generate(
    model: BlipForConditionalGeneration,
    loaded: Bundle,
    num_beams: int,
    length_penalty: float,
    early_stopping: bool | str,
) -> None:
    config = SearchConfig(EOS, num_beams, 12, length_penalty, early_stopping)
    for image in range(3):
        decoder = CachedDecoder(loaded, loaded.encode(pixels_of(image)), 16)
        ids, score = beam_search(decoder, [30522], config)
        expected_ids, expected_score = oracle(
            model,
            pixels_of(image),
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        assert ids == expected_ids
        assert score == pytest.approx(expected_score, abs=1e-3)
