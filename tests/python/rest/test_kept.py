"""Work that is not done twice: kept captions, kept images, equal requests at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from service import ROOT, Service
from support.clients import MODEL, PICTURES, SECONDS, caption, expected, picture
from support.work import NO_CACHES

ON = "caption_cache_bytes = 1000000\nimage_cache_bytes = 100000000\nsingle_flight = true\n"


@dataclass(frozen=True)
class Work:
    """What a service has done."""

    encoder: int
    decoder: int
    hits: int
    misses: int

    def __sub__(self, other: Work) -> Work:
        return Work(
            self.encoder - other.encoder,
            self.decoder - other.decoder,
            self.hits - other.hits,
            self.misses - other.misses,
        )


def work(service: Service) -> Work:
    """Runs of both graphs and looks into the cache so far."""
    url = f"{service.url}/v2/models/{MODEL}/stats"
    (model,) = requests.get(url, timeout=SECONDS).json()["model_stats"]
    inference = model["inference_stats"]
    return Work(
        model["encoder_stats"]["count"],
        model["execution_count"],
        inference["cache_hit"]["count"],
        inference["cache_miss"]["count"],
    )


def start(folder: Path, settings: str) -> Service:
    models = folder / "models.toml"
    models.write_text(
        f'default = "{MODEL}"\n[[models]]\nname = "{MODEL}"\npath = "{ROOT / "models" / MODEL}"\n'
        + settings
    )
    return Service(models, log=folder / "service.log")


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that keeps captions and images."""
    with start(tmp_path_factory.mktemp("kept"), ON) as running:
        yield running


def test_a_repeated_image_runs_no_graph(keeping: Service) -> None:
    before = work(keeping)
    first = keeping.caption(picture(PICTURES[0]), "a photography of")
    computed = work(keeping)
    assert (computed - before).encoder == 1
    assert (computed - before).decoder > 3
    assert keeping.caption(picture(PICTURES[0]), "a photography of") == first
    assert first[0].text == caption(PICTURES[0])
    assert work(keeping) - computed == Work(0, 0, 1, 0)


def test_another_prompt_on_an_image_runs_the_decoder_alone(keeping: Service) -> None:
    keeping.caption(picture(PICTURES[1]))
    before = work(keeping)
    assert keeping.caption(picture(PICTURES[1]), "a photography of")[0].text == caption(PICTURES[1])
    done = work(keeping) - before
    assert (done.encoder, done.hits, done.misses) == (0, 0, 1)
    assert done.decoder > 3


def test_other_parameters_are_another_caption(keeping: Service) -> None:
    name = "dog-house.png"
    keeping.caption(picture(name))
    before = work(keeping)
    wanted = expected(name, None, {"num_beams": 3, "num_return_sequences": 3})
    for _ in range(2):
        got = keeping.caption(picture(name), None, {"num_beams": 3, "num_return_sequences": 3})
        assert [row.text for row in got] == [row["text"] for row in wanted]
        assert [list(row.token_ids) for row in got] == [row["token_ids"] for row in wanted]
    done = work(keeping) - before
    assert (done.hits, done.misses) == (1, 1)


def test_what_is_drawn_at_random_is_not_kept(keeping: Service) -> None:
    drawn = {"do_sample": True, "min_new_tokens": 20, "temperature": 2.0}
    texts = {keeping.caption(picture(), None, drawn)[0].text for _ in range(5)}
    assert len(texts) > 1
    before = work(keeping)
    seeded = drawn | {"seed": 7}
    assert keeping.caption(picture(), None, seeded) == keeping.caption(picture(), None, seeded)
    assert (work(keeping) - before).hits == 1


def test_a_kept_caption_streams_as_it_did(keeping: Service) -> None:
    request = keeping.messages.CaptionRequest(image=picture(PICTURES[2]), prompt="a photography of")
    first = list(keeping.stub.StreamCaption(request, timeout=SECONDS))
    before = work(keeping)
    assert list(keeping.stub.StreamCaption(request, timeout=SECONDS)) == first
    assert len(first) > 3
    assert work(keeping) - before == Work(0, 0, 1, 0)


def test_equal_requests_at_the_same_time_are_one(keeping: Service) -> None:
    name, parameters = PICTURES[0], {"min_new_tokens": 100, "max_new_tokens": 100}
    before = work(keeping)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(keeping.caption, picture(name), None, parameters) for _ in range(8)]
        answers = [call.result(SECONDS) for call in calls]
    assert all(answer == answers[0] for answer in answers)
    done = work(keeping) - before
    assert (done.decoder, done.hits, done.misses) == (100, 7, 1)


def test_switched_off_everything_is_computed(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start(tmp_path_factory.mktemp("off"), NO_CACHES) as service:
        for _ in range(2):
            before = work(service)
            assert service.caption(picture(), "a photography of")[0].text == caption()
            done = work(service) - before
            assert (done.encoder, done.hits, done.misses) == (1, 0, 0)
            assert done.decoder > 3
