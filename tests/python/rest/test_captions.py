"""The short requests, from Python and from web pages: /v1/captions, generate, CORS and /docs."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest
import requests

from service import Service
from support.clients import MODEL, PICTURE, PICTURES, PROMPT, SECONDS, caption, expected, picture

BEAMS = ("dog-house.png", {"num_beams": 3, "num_return_sequences": 3})
"""A picture and parameters with golden captions."""
PAGE = "https://example.com"


def base64(name: str = PICTURE) -> str:
    return b64encode(picture(name)).decode()


def post(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = requests.post(service.url + path, json=body, timeout=SECONDS)
    assert reply.status_code == 200, reply.text
    return reply.json()


def form(service: Service, name: str, fields: Any = None) -> dict[str, Any]:
    """The answer to a form with a file."""
    files = {"image": (name, picture(name))}
    reply = requests.post(f"{service.url}/v1/captions", data=fields, files=files, timeout=SECONDS)
    assert reply.status_code == 200, reply.text
    return reply.json()


def is_golden(captions: list[dict[str, Any]], golden: list[dict[str, Any]]) -> bool:
    """Whether captions are those of transformers."""
    exact = ("text", "token_ids", "finish_reason")
    same = [[each[key] for key in exact] for each in captions] == [
        [each[key] for key in exact] for each in golden
    ]
    scores = [[each["score"] for each in side] for side in (captions, golden)]
    return same and np.allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_as_json(service: Service, images_url: str, name: str) -> None:
    for source in ({"image": base64(name)}, {"image_url": f"{images_url}/{name}"}):
        answer = post(service, "/v1/captions", {**source, "prompt": PROMPT, "id": "7"})
        head = {key: answer[key] for key in ("id", "model", "model_version")}
        assert head == {"id": "7", "model": MODEL, "model_version": "1"}
        assert is_golden(answer["captions"], expected(name, PROMPT))


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_as_a_form(service: Service, name: str) -> None:
    answer = form(service, name, {"prompt": PROMPT, "id": "7", "model": MODEL})
    assert answer["id"] == "7" and is_golden(answer["captions"], expected(name, PROMPT))
    assert "id" not in form(service, name)


def test_parameters_are_fields_of_a_form_or_json(service: Service) -> None:
    name, parameters = BEAMS
    golden = expected(name, None, parameters)
    body = {"image": base64(name), "parameters": parameters}
    assert is_golden(post(service, "/v1/captions", body)["captions"], golden)
    assert is_golden(form(service, name, parameters)["captions"], golden)
    as_json = {"parameters": '{"num_beams": 3, "num_return_sequences": 3}'}
    assert is_golden(form(service, name, as_json)["captions"], golden)
    # A field that comes more than once is a list.
    words = form(service, PICTURE, [("bad_words", "two"), ("bad_words", "cats")])
    (without,) = words["captions"]
    assert not {"two", "cats"} & set(without["text"].split())


def test_generate_takes_parameters_beside_the_picture(service: Service) -> None:
    name, parameters = BEAMS
    golden = expected(name, None, parameters)
    path = f"/v2/models/{MODEL}/versions/1/generate"
    for more in (parameters, {"parameters": parameters}):
        answer = post(service, path, {"image": base64(name), "id": "7", **more})
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", MODEL, "1")
        assert answer["text_output"] == [each["text"] for each in golden]
        assert answer["finish_reason"] == [each["finish_reason"] for each in golden]
    one = post(service, path, {"image": base64(), "text_input": PROMPT})
    assert (one["text_output"], one["finish_reason"]) == (caption(), "eos")


def preflight(service: Service, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return requests.options(f"{service.url}/v1/captions", headers=headers, timeout=SECONDS)


def cors(reply: requests.Response) -> dict[str, str]:
    """What a reply allows web pages to do."""
    prefix = "access-control-"
    headers = {name.lower(): value.lower() for name, value in reply.headers.items()}
    return {n.removeprefix(prefix): v for n, v in headers.items() if n.startswith(prefix)}


def test_no_web_page_may_call_by_default(service: Service) -> None:
    assert cors(preflight(service, PAGE)) == {}
    reply = requests.get(f"{service.url}/v2", headers={"Origin": PAGE}, timeout=SECONDS)
    assert reply.status_code == 200 and cors(reply) == {}


@pytest.fixture(scope="module")
def open_service() -> Iterator[Service]:
    with Service(flags=("--api-keys=secret", f"--cors-origins={PAGE}")) as service:
        yield service


def test_a_web_page_that_is_allowed_may_call(open_service: Service) -> None:
    # Browsers send no key with a preflight.
    reply = preflight(open_service, PAGE)
    allowed = cors(reply)
    assert reply.status_code == 200 and allowed["allow-origin"] == PAGE
    assert {"get", "post"} <= set(allowed["allow-methods"].split(","))
    assert {"authorization", "content-type"} <= set(allowed["allow-headers"].split(","))
    url = f"{open_service.url}/v1/captions"
    for key, status in [("secret", 200), ("none", 401)]:
        headers = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
        body = {"image": base64()}
        reply = requests.post(url, json=body, headers=headers, timeout=SECONDS)
        # A page must be able to read why it failed.
        assert reply.status_code == status and cors(reply)["allow-origin"] == PAGE
        assert "x-request-id" in cors(reply)["expose-headers"]
    for stranger in ("https://example.com.evil.net", "http://example.com", "null"):
        assert "allow-origin" not in cors(preflight(open_service, stranger))


def test_the_docs_page_needs_no_other_host_and_no_key(open_service: Service) -> None:
    url = f"{open_service.url}/docs"
    page = requests.get(url, timeout=SECONDS)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    files = {urljoin(page.url, link) for link in links}
    assert len(files) > 4 and {urlsplit(each).netloc for each in files} == {open_service.address}
    loaded = {each: requests.get(each, timeout=SECONDS) for each in files}
    assert {reply.status_code for reply in loaded.values()} == {200}
    for address, reply in loaded.items():
        if address.endswith("initializer.js"):
            assert '"/openapi.json"' in reply.text and "//" not in strings_of(reply.text)
        if address.endswith(".css"):
            assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", reply.text)
    description = requests.get(f"{open_service.url}/openapi.json", timeout=SECONDS)
    assert description.json()["openapi"].startswith("3.")


def strings_of(script: str) -> str:
    """All that a script has in double quotes."""
    return " ".join(re.findall(r'"([^"]*)"', script))
