"""The margin of the oracle: which mismatches numerical noise explains, and which it does not."""

from pathlib import Path

import pytest
import torch

from oracle.captions import Oracle
from oracle.margin import disturbed, margin_of_mismatch
from parity.images import encode
from scenes import dataset

ROOT = Path(__file__).resolve().parents[3]
SCENES = 60
"""Number of scenes that are tried until noise changes a caption: the margins of the model are wide."""


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    torch.set_num_threads(1)
    return Oracle(ROOT / "models" / "scenes" / "checkpoint")


def scene(number: int) -> bytes:
    return encode(dataset.render(dataset.make_scene("unseen", number)), "png")


@pytest.mark.parametrize(
    ("noise", "parameters"),
    [(0.5, {}), (0.1, {"num_beams": 3, "num_return_sequences": 2})],
    ids=["greedy", "three beams"],
)
def test_a_caption_changed_by_noise_is_explained_by_a_margin_of_its_size(
    oracle: Oracle, noise: float, parameters: dict[str, int]
) -> None:
    for number in range(SCENES):
        image = scene(number)
        expected = [c.token_ids for c in oracle.caption(image, None, parameters)]
        with disturbed(oracle, noise, seed=1000 + number):
            answer = [c.token_ids for c in oracle.caption(image, None, parameters)]
        if answer == expected:
            continue
        margin = margin_of_mismatch(oracle, image, None, parameters, answer, 4 * noise)
        assert margin is not None
        assert margin.gap < 4 * noise
        assert margin_of_mismatch(oracle, image, None, parameters, answer, margin.gap / 2) is None
        return
    pytest.fail(f"none of {SCENES} captions changed: the test proves nothing")


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_of_another_image_is_not_excused(oracle: Oracle, beams: int) -> None:
    parameters = {"num_beams": beams}
    expected = oracle.caption(scene(0), None, parameters)[0].token_ids
    other = next(
        answer
        for number in range(1, SCENES)
        if (answer := oracle.caption(scene(number), None, parameters)[0].token_ids)[2:5]
        != expected[2:5]
    )
    assert margin_of_mismatch(oracle, scene(0), None, parameters, [other], 1e-3) is None


def test_a_truncated_caption_is_not_excused(oracle: Oracle) -> None:
    expected = oracle.caption(scene(0))[0].token_ids
    assert margin_of_mismatch(oracle, scene(0), None, {}, [expected[:-1]], 1.0) is None
