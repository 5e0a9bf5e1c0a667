"""Captions that are streamed: StreamCaption, CaptionMany and generate_stream."""

from __future__ import annotations

import base64
import json
import queue
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import requests
from google.rpc import error_details_pb2

from service import Service
from support.clients import MODEL, PICTURE, PICTURES, PROMPT, SECONDS, caption, expected, picture
from support.work import decoded_rows, metric, wait_until, wait_until_idle

NEW_TOKENS = 128
"""The largest number that the positions of the embedded model allow."""


@pytest.fixture(scope="module")
def service(uncached: Service) -> Service:
    """A service that decodes every caption that it streams; test_caches.py streams cached ones."""
    return uncached


def caption_request(service: Service, name: str = PICTURE, **more: Any) -> Any:
    """Makes a CaptionRequest with a sample image and the prompt."""
    fields = {"image": picture(name), "prompt": PROMPT} | more
    return service.messages.CaptionRequest(**fields)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pieces_concatenated_are_the_caption(service: Service, name: str) -> None:
    request = caption_request(service, name, id="7")
    *pieces, last = service.stub.StreamCaption(request, timeout=SECONDS)
    assert all(event.WhichOneof("event") == "piece" for event in pieces)
    # One word per piece, however late the client reads.
    assert [event.piece.strip() for event in pieces] == caption(name).split()
    assert "".join(event.piece for event in pieces) == caption(name)
    assert last.response == service.stub.Caption(request, timeout=SECONDS)


def test_captions_of_beam_search_are_sent_at_the_end_only(service: Service) -> None:
    name, parameters = "dog-house.png", {"num_beams": 3, "num_return_sequences": 3}
    request = service.messages.CaptionRequest(image=picture(name), parameters=parameters)
    (only,) = service.stub.StreamCaption(request, timeout=SECONDS)
    got = [each.text for each in only.response.captions]
    assert got == [row["text"] for row in expected(name, None, parameters)]


def test_an_invalid_request_ends_the_stream_before_any_piece(service: Service) -> None:
    for request, code in [
        (caption_request(service, image=b"not an image"), grpc.StatusCode.INVALID_ARGUMENT),
        (caption_request(service, model="none"), grpc.StatusCode.NOT_FOUND),
    ]:
        with pytest.raises(grpc.RpcError) as failure:
            next(service.stub.StreamCaption(request, timeout=SECONDS))
        assert failure.value.code() is code


def test_a_stream_can_be_cancelled(service: Service) -> None:
    call = service.stub.StreamCaption(caption_request(service), timeout=SECONDS)
    assert next(call).piece
    call.cancel()
    assert service.caption(picture(), PROMPT)[0].text == caption()


def test_the_decoder_stops_when_the_client_disconnects(service: Service) -> None:
    parameters = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    request = caption_request(service, prompt="", parameters=parameters)

    def count_steps(read: Callable[[Any], int]) -> tuple[int, int]:
        """Returns the number of all steps, and of those after the number that `read` returns."""
        wait_until_idle(service)
        before = decoded_rows(service)
        seen = read(service.stub.StreamCaption(request, timeout=SECONDS))
        wait_until_idle(service)
        after = decoded_rows(service)
        return after - before, after - seen

    def read_all(call: Any) -> int:
        assert list(call)
        return decoded_rows(service)

    def read_one_piece(call: Any) -> int:
        cancelled = {"outcome": "cancelled", "surface": "grpc"}
        before = metric(service, "blip_requests_total", **cancelled)
        assert next(call).piece
        call.cancel()
        # From here on the service knows that the client has disconnected.
        wait_until(service, "blip_requests_total", before + 1, **cancelled)
        return decoded_rows(service)

    # Without caches every token of a repeated request is computed.
    for _ in range(2):
        assert count_steps(read_all) == (NEW_TOKENS, 0)
    cut = [count_steps(read_one_piece) for _ in range(5)]
    # Usually 2 to 10; on a busy machine this process may be late once, but not three times in five.
    assert statistics.median(steps for steps, _ in cut) < NEW_TOKENS / 2, cut
    # The running step ends, and at most one more begins before the row is removed.
    assert statistics.median(late for _, late in cut) <= 2, cut


class CaptionManyCall:
    """A CaptionMany call whose requests are sent one at a time."""

    def __init__(self, service: Service) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        self._call = service.stub.CaptionMany(iter(self._requests.get, None), timeout=SECONDS)

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put(request)

    def finish(self) -> None:
        """Ends the requests."""
        self._requests.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._call)

    def next(self) -> Any:
        return next(self._call)


def test_every_response_of_caption_many_has_the_id_of_its_request(service: Service) -> None:
    names = PICTURES * 4
    many = CaptionManyCall(service)
    many.send(*[caption_request(service, name, id=str(index)) for index, name in enumerate(names)])
    many.finish()
    results = {result.id: result.response for result in many}
    assert set(results) == set(map(str, range(len(names))))
    for index, name in enumerate(names):
        response = results[str(index)]
        assert (response.id, response.model) == (str(index), MODEL)
        assert [each.text for each in response.captions] == [caption(name)]


def test_a_failed_request_of_caption_many_is_an_error_of_that_request_only(
    service: Service,
) -> None:
    many = CaptionManyCall(service)
    many.send(
        caption_request(service, id="good"),
        caption_request(service, image=b"not an image", id="picture"),
    )
    many.send(
        caption_request(service, model="none", id="model"),
        service.messages.CaptionRequest(id="empty"),
    )
    many.send(caption_request(service, id="too"))
    many.finish()
    results = {result.id: result for result in many}
    assert set(results) == {"good", "picture", "model", "empty", "too"}
    for name in ("good", "too"):
        assert results[name].response.captions[0].text == caption()
    for name, code in [("picture", "INVALID_ARGUMENT"), ("model", "NOT_FOUND")]:
        assert results[name].error.code == grpc.StatusCode[code].value[0]
    assert results["empty"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    bad_request = error_details_pb2.BadRequest()
    details = results["picture"].error.details
    assert any(detail.Unpack(bad_request) for detail in details)
    assert [violation.field for violation in bad_request.field_violations] == ["image"]


def test_responses_of_caption_many_are_sent_before_the_requests_end(service: Service) -> None:
    many = CaptionManyCall(service)
    for index, name in enumerate(PICTURES):
        many.send(caption_request(service, name, id=str(index)))
        result = many.next()
        assert (result.id, result.response.captions[0].text) == (str(index), caption(name))
    many.finish()
    assert list(many) == []


def test_caption_many_without_requests_ends_at_once(service: Service) -> None:
    many = CaptionManyCall(service)
    many.finish()
    assert list(many) == []


def generate(service: Service, path: str, body: dict[str, Any]) -> requests.Response:
    url = f"{service.url}/v2/models/{MODEL}/{path}"
    return requests.post(url, json=body, stream=True, timeout=SECONDS)


def test_generate_stream_sends_server_sent_events(service: Service, images_url: str) -> None:
    sources = [
        {"image_url": f"{images_url}/{PICTURE}"},
        {"image": base64.b64encode(picture()).decode()},
    ]
    for source in sources:
        body = {**source, "text_input": PROMPT, "id": "7"}
        reply = generate(service, "generate_stream", body)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines(decode_unicode=True) if line]
        assert all(line.startswith("data: ") for line in lines)
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert len(events) > 2
        assert "".join(event["text_output"] for event in events) == caption()
        assert {(e["model_name"], e["model_version"]) for e in events} == {(MODEL, "1")}
        assert (events[-1]["caption"], events[-1]["finish_reason"]) == (caption(), "eos")
        whole = generate(service, "generate", body).json()
        assert (whole["id"], whole["text_output"]) == ("7", caption())


def test_generate_stream_with_beams_sends_one_event(service: Service) -> None:
    name, parameters = "dog-house.png", {"num_beams": 3}
    body = {"image": base64.b64encode(picture(name)).decode(), "parameters": parameters}
    reply = generate(service, "generate_stream", body)
    (line,) = [line for line in reply.iter_lines() if line]
    wanted = expected(name, "", parameters)[0]["text"]
    assert json.loads(line.removeprefix(b"data: "))["text_output"] == wanted


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
def test_an_invalid_request_gets_json_and_its_status(service: Service, path: str) -> None:
    reply = generate(service, path, {"image": "bm8gcGljdHVyZQ=="})
    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/json")
    body = reply.json()
    assert body["error"].startswith("image: ")
    assert body["request_id"] == reply.headers["x-request-id"]
