"""Continuous batching: which rows share a decoder step, and that a shared step changes no caption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from service import Service
from support.clients import IMAGES, PICTURES, SECONDS, picture
from support.work import (
    decoded_rows,
    difference,
    metric,
    runs_by_rows,
    uncached_service,
    wait_until,
    wait_until_idle,
)

LONG = {"min_new_tokens": 120, "max_new_tokens": 120}


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without caches and without the requests of other tests: every request is computed."""
    with uncached_service(tmp_path_factory.mktemp("batching")) as running:
        yield running


def stream(service: Service, name: str, parameters: dict[str, Any], prompt: str = "") -> Any:
    """Starts a StreamCaption call."""
    request = service.messages.CaptionRequest(
        image=picture(name), prompt=prompt, parameters=parameters
    )
    return service.stub.StreamCaption(request, timeout=SECONDS)


def test_a_request_joins_the_batch_while_another_is_decoded(batching: Service) -> None:
    before = runs_by_rows(batching)
    first = stream(batching, PICTURES[0], LONG)
    assert next(first).piece
    second = stream(batching, PICTURES[1], LONG)
    assert next(second).piece
    # The first is still being decoded: most of its pieces come after the second's first.
    assert len(list(first)) > 20
    list(second)
    runs = difference(before, runs_by_rows(batching))
    assert runs[2] > 20
    assert runs[1] > 0
    assert set(runs) == {1, 2}


def test_prompts_beams_samples_and_greedy_rows_share_a_step(batching: Service) -> None:
    kinds = [
        (PICTURES[0], None, {"num_beams": 3, **LONG}),
        (PICTURES[1], "a photography of", LONG),
        (PICTURES[2], None, {"do_sample": True, "num_return_sequences": 2, "seed": 5, **LONG}),
        (PICTURES[1], "a picture of two", {"num_beams": 2, **LONG}),
        (PICTURES[0], None, LONG),
    ]
    separate = [batching.caption(picture(name), prompt, p) for name, prompt, p in kinds]
    before = runs_by_rows(batching)
    with ThreadPoolExecutor(len(kinds)) as pool:
        calls = [
            pool.submit(batching.caption, picture(name), prompt, p) for name, prompt, p in kinds
        ]
        together = [call.result(SECONDS) for call in calls]
    runs = difference(before, runs_by_rows(batching))
    # 3 beams, a prompt, 2 samples, 2 beams with a prompt, and one greedy row.
    assert runs.get(3 + 1 + 2 + 2 + 1, 0) > 10, runs
    for wanted, got in zip(separate, together, strict=True):
        assert [(c.token_ids, c.score) for c in got] == [(c.token_ids, c.score) for c in wanted]


def test_captions_of_concurrent_requests_equal_those_of_single_ones(batching: Service) -> None:
    rng = np.random.default_rng(3)
    files = []
    for index in range(24):
        image = PIL.Image.open(IMAGES / PICTURES[index % 2]).convert("RGB")
        size = tuple(rng.integers(40, 200, 2).tolist())
        image.resize(size).save(path := batching.log.with_name(f"{index}.png"))
        files.append(path.read_bytes())
    parameters = [{"num_beams": index % 3 + 1} for index in range(24)]
    separate = [
        batching.caption(file, None, p)[0] for file, p in zip(files, parameters, strict=True)
    ]
    before = runs_by_rows(batching)
    with ThreadPoolExecutor(24) as pool:
        calls = [
            pool.submit(batching.caption, file, None, p)
            for file, p in zip(files, parameters, strict=True)
        ]
        together = [call.result(SECONDS)[0] for call in calls]
    assert [c.token_ids for c in together] == [c.token_ids for c in separate]
    assert [c.score for c in together] == [c.score for c in separate]
    runs = difference(before, runs_by_rows(batching))
    assert max(runs) > 4
    # The default of max_rows in models.toml.
    assert max(runs) <= 16


def test_clients_that_disconnect_free_their_rows(batching: Service) -> None:
    clients, tokens = 12, LONG["max_new_tokens"]
    wait_until_idle(batching)
    cancelled = metric(batching, "blip_requests_total", outcome="cancelled")
    before = decoded_rows(batching)
    streams = [stream(batching, PICTURES[index % 3], LONG) for index in range(clients)]
    started = threading.Barrier(clients)

    def cancel_after_one_piece(call: Any) -> None:
        next(call)
        started.wait(SECONDS)
        call.cancel()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(cancel_after_one_piece, streams))
    # From here on the service knows that every client has disconnected.
    wait_until(batching, "blip_requests_in_flight", 0)
    known = decoded_rows(batching)
    assert metric(batching, "blip_requests_total", outcome="cancelled") > cancelled
    wanted = batching.caption(picture(), None, {"max_new_tokens": 5})
    assert wanted[0].text
    wait_until_idle(batching)
    after = decoded_rows(batching)
    # The tokens of cancelled requests are not decoded: all of them would be clients * tokens.
    assert after - before < clients * tokens
    # The tokens of the last caption, and for each client two rows of steps that had begun.
    assert after - known <= 5 + 2 * clients


def test_queued_requests_of_clients_that_disconnected_are_removed(tmp_path: Path) -> None:
    with uncached_service(tmp_path, "max_rows = 1\n") as service:

        def start(**parameters: int) -> Any:
            request = service.messages.CaptionRequest(image=picture(), parameters=parameters)
            return service.stub.Caption.future(request, timeout=SECONDS)

        # While it is decoded, no other request is admitted to the batch.
        first = start(num_beams=32, **LONG)
        while metric(service, "blip_decoder_rows") != 32:
            assert not first.done()
        others = [start() for _ in range(20)]
        while metric(service, "blip_queue_depth") != len(others):
            assert not first.done()
        for other in others:
            other.cancel()
        while metric(service, "blip_queue_depth"):
            assert not first.done()
        assert not first.done()
        assert first.result().captions


def test_instances_decode_at_the_same_time(batching: Service, tmp_path: Path) -> None:
    wanted = [batching.caption(picture(name), None, LONG)[0] for name in PICTURES[:2]]
    with uncached_service(tmp_path, "instances = 2\n") as service:
        before = runs_by_rows(service)
        first = stream(service, PICTURES[0], LONG)
        assert next(first).piece
        second = stream(service, PICTURES[1], LONG)
        assert next(second).piece
        assert metric(service, "blip_decoder_rows") == 2
        # The second is decoded at the same time as the first, and no step has rows of both.
        ends = [list(call)[-1].response.captions[0] for call in (first, second)]
        assert set(difference(before, runs_by_rows(service))) == {1}
    assert [caption.token_ids for caption in ends] == [caption.token_ids for caption in wanted]
