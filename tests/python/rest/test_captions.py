"""The short requests /v1/captions and generate, CORS and /docs."""

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
"""An image and parameters with golden captions."""
PAGE = "https://example.com"


def encode_image(name: str = PICTURE) -> str:
    return b64encode(picture(name)).decode()


def post(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = requests.post(service.url + path, json=body, timeout=SECONDS)
    assert reply.status_code == 200, reply.text
    return reply.json()


def post_form(service: Service, name: str, fields: Any = None) -> dict[str, Any]:
    """Returns the response to a form with a file."""
    files = {"image": (name, picture(name))}
    reply = requests.post(f"{service.url}/v1/captions", data=fields, files=files, timeout=SECONDS)
    assert reply.status_code == 200, reply.text
    return reply.json()


def equal_golden(captions: list[dict[str, Any]], golden: list[dict[str, Any]]) -> bool:
    """Whether captions equal those of transformers."""
    exact = ("text", "token_ids", "finish_reason")
    same = [[each[key] for key in exact] for each in captions] == [
        [each[key] for key in exact] for each in golden
    ]
    scores = [[each["score"] for each in side] for side in (captions, golden)]
    return same and np.allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_in_json_is_captioned(service: Service, images_url: str, name: str) -> None:
    for source in ({"image": encode_image(name)}, {"image_url": f"{images_url}/{name}"}):
        answer = post(service, "/v1/captions", {**source, "prompt": PROMPT, "id": "7"})
        head = {key: answer[key] for key in ("id", "model", "model_version")}
        assert head == {"id": "7", "model": MODEL, "model_version": "1"}
        assert equal_golden(answer["captions"], expected(name, PROMPT))


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_in_a_form_is_captioned(service: Service, name: str) -> None:
    answer = post_form(service, name, {"prompt": PROMPT, "id": "7", "model": MODEL})
    assert answer["id"] == "7" and equal_golden(answer["captions"], expected(name, PROMPT))
    assert "id" not in post_form(service, name)


def test_parameters_are_fields_of_a_form_or_json(service: Service) -> None:
    name, parameters = BEAMS
    golden = expected(name, None, parameters)
    body = {"image": encode_image(name), "parameters": parameters}
    assert equal_golden(post(service, "/v1/captions", body)["captions"], golden)
    assert equal_golden(post_form(service, name, parameters)["captions"], golden)
    as_json = {"parameters": '{"num_beams": 3, "num_return_sequences": 3}'}
    assert equal_golden(post_form(service, name, as_json)["captions"], golden)
    # A repeated field is a list.
    words = post_form(service, PICTURE, [("bad_words", "two"), ("bad_words", "cats")])
    (without,) = words["captions"]
    assert not {"two", "cats"} & set(without["text"].split())


def test_generate_accepts_parameters_beside_the_image_or_nested(service: Service) -> None:
    name, parameters = BEAMS
    golden = expected(name, None, parameters)
    path = f"/v2/models/{MODEL}/versions/1/generate"
    for more in (parameters, {"parameters": parameters}):
        answer = post(service, path, {"image": encode_image(name), "id": "7", **more})
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", MODEL, "1")
        assert answer["text_output"] == [each["text"] for each in golden]
        assert answer["finish_reason"] == [each["finish_reason"] for each in golden]
    one = post(service, path, {"image": encode_image(), "text_input": PROMPT})
    assert (one["text_output"], one["finish_reason"]) == (caption(), "eos")


def preflight(service: Service, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return requests.options(f"{service.url}/v1/captions", headers=headers, timeout=SECONDS)


def cors_headers(reply: requests.Response) -> dict[str, str]:
    """Returns the CORS headers of a response, without their prefix."""
    prefix = "access-control-"
    headers = {name.lower(): value.lower() for name, value in reply.headers.items()}
    return {n.removeprefix(prefix): v for n, v in headers.items() if n.startswith(prefix)}


def test_cross_origin_requests_are_not_allowed_by_default(service: Service) -> None:
    assert cors_headers(preflight(service, PAGE)) == {}
    reply = requests.get(f"{service.url}/v2", headers={"Origin": PAGE}, timeout=SECONDS)
    assert reply.status_code == 200 and cors_headers(reply) == {}


@pytest.fixture(scope="module")
def cors_service() -> Iterator[Service]:
    with Service(flags=("--api-keys=secret", f"--cors-origins={PAGE}")) as service:
        yield service


def test_cross_origin_requests_of_an_allowed_origin_are_answered(cors_service: Service) -> None:
    # Browsers send no key with a preflight.
    reply = preflight(cors_service, PAGE)
    allowed = cors_headers(reply)
    assert reply.status_code == 200 and allowed["allow-origin"] == PAGE
    assert {"get", "post"} <= set(allowed["allow-methods"].split(","))
    assert {"authorization", "content-type"} <= set(allowed["allow-headers"].split(","))
    url = f"{cors_service.url}/v1/captions"
    for key, status in [("secret", 200), ("none", 401)]:
        headers = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
        body = {"image": encode_image()}
        reply = requests.post(url, json=body, headers=headers, timeout=SECONDS)
        # A page must be able to read the error.
        assert reply.status_code == status and cors_headers(reply)["allow-origin"] == PAGE
        assert "x-request-id" in cors_headers(reply)["expose-headers"]
    for origin in ("https://example.com.evil.net", "http://example.com", "null"):
        assert "allow-origin" not in cors_headers(preflight(cors_service, origin))


def test_the_docs_page_needs_no_other_host_and_no_key(cors_service: Service) -> None:
    url = f"{cors_service.url}/docs"
    page = requests.get(url, timeout=SECONDS)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    files = {urljoin(page.url, link) for link in links}
    assert len(files) > 4 and {urlsplit(each).netloc for each in files} == {cors_service.address}
    loaded = {each: requests.get(each, timeout=SECONDS) for each in files}
    assert {reply.status_code for reply in loaded.values()} == {200}
    assert any(address.endswith("initializer.js") for address in loaded)
    assert any(address.endswith(".css") for address in loaded)
    for address, reply in loaded.items():
        if address.endswith("initializer.js"):
            assert '"/openapi.json"' in reply.text and "//" not in quoted_strings(reply.text)
        if address.endswith(".css"):
            assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", reply.text)
    description = requests.get(f"{cors_service.url}/openapi.json", timeout=SECONDS)
    assert description.json()["openapi"].startswith("3.")


def quoted_strings(script: str) -> str:
    """Returns the strings in double quotes of a script."""
    return " ".join(re.findall(r'"([^"]*)"', script))
