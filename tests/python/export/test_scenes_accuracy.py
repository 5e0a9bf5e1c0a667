"""The accuracy of the served embedded model on scenes that are not in its training data."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from scenes import dataset
from service import Service

SCENES = 500
IN_FLIGHT = 4


def count_exact(service: Service, split: str) -> int:
    """Returns how many of the first 500 scenes of a split are captioned exactly."""

    def is_exact(index: int) -> bool:
        scene = dataset.make_scene(split, index)
        file = io.BytesIO()
        Image.fromarray(dataset.render(scene)).save(file, "PNG")
        return service.caption(file.getvalue())[0].text == scene.caption

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return sum(pool.map(is_exact, range(SCENES)))


# The figures of the model card are from transformers on another machine: a near tie may be decided differently.
def test_the_accuracy_on_held_out_scenes_is_that_of_the_model_card(service: Service) -> None:
    assert count_exact(service, "heldout") == pytest.approx(490, abs=2)


def test_the_accuracy_on_an_unseen_style_is_that_of_the_model_card(service: Service) -> None:
    assert count_exact(service, "unseen") == pytest.approx(300, abs=2)
