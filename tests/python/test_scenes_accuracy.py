"""The embedded model, served: true captions of scenes that training never showed."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor

import scenes
from PIL import Image
from service import Service

SCENES = 500
IN_FLIGHT = 4


def share_exact(service: Service, split: str) -> float:
    """Share of the first 500 scenes of a split whose caption is exactly the true one."""

    def is_exact(index: int) -> bool:
        scene = scenes.make_scene(split, index)
        file = io.BytesIO()
        Image.fromarray(scenes.render(scene)).save(file, "PNG")
        return service.caption(file.getvalue())[0].text == scene.caption

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        exact = sum(pool.map(is_exact, range(SCENES)))
    logging.getLogger(__name__).warning("%s: %d of %d exact", split, exact, SCENES)
    return exact / SCENES


def test_held_out_scenes_are_captioned_exactly(service: Service) -> None:
    assert share_exact(service, "heldout") >= 0.95


def test_scenes_of_an_unseen_style_are_answered(service: Service) -> None:
    # No gate on the share: the figure is what the model card publishes.
    assert 0 <= share_exact(service, "unseen") <= 1
