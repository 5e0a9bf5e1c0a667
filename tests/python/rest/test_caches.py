"""The caption cache, the image cache, and equal requests at the same time."""

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
    """Counters of the work that a service has done."""

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


def count_work(service: Service) -> Work:
    """Returns the runs of both graphs and the look-ups in the cache so far."""
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
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that caches captions and images."""
    with start(tmp_path_factory.mktemp("cached"), ON) as running:
        yield running


def test_a_repeated_image_runs_no_graph(cached: Service) -> None:
    before = count_work(cached)
    first = cached.caption(picture(PICTURES[0]), "a photography of")
    computed = count_work(cached)
    assert (computed - before).encoder == 1
    assert (computed - before).decoder > 3
    assert cached.caption(picture(PICTURES[0]), "a photography of") == first
    assert first[0].text == caption(PICTURES[0])
    assert count_work(cached) - computed == Work(0, 0, 1, 0)


def test_another_prompt_for_a_cached_image_runs_the_decoder_only(cached: Service) -> None:
    cached.caption(picture(PICTURES[1]))
    before = count_work(cached)
    assert cached.caption(picture(PICTURES[1]), "a photography of")[0].text == caption(PICTURES[1])
    done = count_work(cached) - before
    assert (done.encoder, done.hits, done.misses) == (0, 0, 1)
    assert done.decoder > 3


def test_other_parameters_miss_the_caption_cache(cached: Service) -> None:
    name = "dog-house.png"
    cached.caption(picture(name))
    before = count_work(cached)
    wanted = expected(name, None, {"num_beams": 3, "num_return_sequences": 3})
    for _ in range(2):
        got = cached.caption(picture(name), None, {"num_beams": 3, "num_return_sequences": 3})
        assert [row.text for row in got] == [row["text"] for row in wanted]
        assert [list(row.token_ids) for row in got] == [row["token_ids"] for row in wanted]
    done = count_work(cached) - before
    assert (done.hits, done.misses) == (1, 1)


def test_sampled_captions_are_cached_only_with_a_seed(cached: Service) -> None:
    sampled = {"do_sample": True, "min_new_tokens": 20, "temperature": 2.0}
    texts = {cached.caption(picture(), None, sampled)[0].text for _ in range(5)}
    assert len(texts) > 1
    before = count_work(cached)
    seeded = sampled | {"seed": 7}
    assert cached.caption(picture(), None, seeded) == cached.caption(picture(), None, seeded)
    assert (count_work(cached) - before).hits == 1


def test_a_cached_caption_is_streamed_in_the_same_pieces(cached: Service) -> None:
    request = cached.messages.CaptionRequest(image=picture(PICTURES[2]), prompt="a photography of")
    first = list(cached.stub.StreamCaption(request, timeout=SECONDS))
    before = count_work(cached)
    assert list(cached.stub.StreamCaption(request, timeout=SECONDS)) == first
    assert len(first) > 3
    assert count_work(cached) - before == Work(0, 0, 1, 0)


def test_equal_requests_at_the_same_time_are_computed_once(cached: Service) -> None:
    name, parameters = PICTURES[0], {"min_new_tokens": 100, "max_new_tokens": 100}
    before = count_work(cached)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(cached.caption, picture(name), None, parameters) for _ in range(8)]
        answers = [call.result(SECONDS) for call in calls]
    assert all(answer == answers[0] for answer in answers)
    done = count_work(cached) - before
    assert (done.decoder, done.hits, done.misses) == (100, 7, 1)


def test_every_request_is_computed_when_the_caches_are_off(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with start(tmp_path_factory.mktemp("off"), NO_CACHES) as service:
        for _ in range(2):
            before = count_work(service)
            assert service.caption(picture(), "a photography of")[0].text == caption()
            done = count_work(service) - before
            assert (done.encoder, done.hits, done.misses) == (1, 0, 0)
            assert done.decoder > 3
