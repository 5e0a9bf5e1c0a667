"""The page of metrics: names and labels of docs/metrics.md, and values that count the requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from service import Service
from support.clients import ROOT, picture
from support.metrics_page import samples, value

SECONDS = 20
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|(?P<labels>[^|]*)\|", re.MULTILINE)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for these tests only, so that no other requests are counted.

    Its caches are on, as by default: a repeated request is a hit and runs no graph.
    """
    with Service(log=tmp_path_factory.mktemp("metrics") / "log") as running:
        yield running


def page(service: Service) -> str:
    answer = requests.get(f"{service.url}/metrics", timeout=SECONDS)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def use_everything(service: Service) -> None:
    """Sends requests that give every metric a sample."""
    assert service.caption(picture())
    files = {"image": picture()}
    for _ in range(2):
        assert requests.post(f"{service.url}/v1/captions", files=files, timeout=SECONDS).ok
    bad = {"image_url": "http://127.0.0.1:1/x.png"}
    assert requests.post(f"{service.url}/v1/captions", json=bad, timeout=SECONDS).status_code == 400
    load = f"{service.url}/v2/repository/models/scenes/load"
    assert requests.post(load, timeout=SECONDS).ok


def test_names_types_and_labels_equal_those_of_the_document(counted: Service) -> None:
    use_everything(counted)
    documented = {
        row["name"]: (row["type"], set(re.findall(r"`(\w+)`", row["labels"])))
        for row in ROW.finditer((ROOT / "docs" / "metrics.md").read_text("utf-8"))
    }
    live = {}
    for family in text_string_to_metric_families(page(counted)):
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        live[name] = (family.type, labels)
    blip_metrics = {name: shape for name, shape in live.items() if name.startswith("blip_")}
    assert blip_metrics == {
        name: shape for name, shape in documented.items() if name.startswith("blip_")
    }
    assert {name for name in documented if not name.startswith("blip_")} <= live.keys()


def test_requests_are_counted_by_outcome(counted: Service) -> None:
    before = page(counted)
    assert counted.caption(picture("flower.gif"), parameters={"num_beams": 2})
    with pytest.raises(grpc.RpcError):
        counted.caption(picture(), parameters={"num_beams": 0})
    with pytest.raises(grpc.RpcError):
        counted.caption(picture(), model="none")
    after = page(counted)

    def increase(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    grpc_requests = {"surface": "grpc", "key": ""}
    assert increase("blip_requests_total", outcome="ok", model="scenes", **grpc_requests) == 1
    assert increase("blip_requests_total", reason="INVALID_ARGUMENT", model="scenes") == 1
    # An unknown model name does not become a label.
    assert increase("blip_requests_total", reason="UNKNOWN_MODEL", model="") == 1
    assert increase("blip_captions_total", model="scenes") == 1
    assert increase("blip_stage_duration_seconds_count", stage="encoder") == 1
    assert increase("blip_stage_duration_seconds_count", stage="decode") == 1
    assert increase("blip_decoder_step_rows_count") == increase(
        "blip_stage_duration_seconds_count", stage="decoder_step"
    )
    assert increase("blip_generated_tokens_total") == increase("blip_caption_tokens_sum") > 0
    assert value(after, "blip_requests_in_flight") == value(after, "blip_queue_depth") == 0
    assert value(after, "blip_ready") == 1


def test_reloads_are_counted_from_zero(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        seen = samples(page(service), "blip_reloads_total")
    assert {(each.labels["what"], each.labels["outcome"]) for each in seen} == {
        (what, outcome)
        for what in ("keys", "certificates", "models")
        for outcome in ("ok", "failed")
    }
    assert {each.value for each in seen} == {0}


def test_the_response_has_a_server_timing_header(counted: Service) -> None:
    url, files = f"{counted.url}/v1/captions", {"image": picture("umbrella-guitar.jpg")}
    fresh = {"num_beams": "2", "min_new_tokens": "11"}
    first = requests.post(url, files=files, data=fresh, timeout=SECONDS).headers["server-timing"]
    again = requests.post(url, files=files, data=fresh, timeout=SECONDS).headers["server-timing"]
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", first))
    assert times.keys() == {"input", "queue", "compute", "output"}
    assert float(times["compute"]) > 0
    assert "cache;desc=miss" in first
    assert "cache;desc=hit" in again
    message = counted.messages.CaptionRequest(image=picture())
    _, call = counted.stub.Caption.with_call(message, timeout=SECONDS)
    assert "server-timing" in dict(call.initial_metadata())


def test_metrics_require_a_key_unless_open_metrics_is_set(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    for flags, status in (((), 401), (("--open-metrics",), 200)):
        with Service(log=tmp_path / "log", flags=(f"--api-keys-file={keys}", *flags)) as service:
            answer = requests.get(f"{service.url}/metrics", timeout=SECONDS)
            assert answer.status_code == status
            assert requests.post(f"{service.url}/metrics", timeout=SECONDS).status_code == 401
            assert requests.get(f"{service.url}/v2", timeout=SECONDS).status_code == 401
            headers = {"authorization": "Bearer secret-key"}
            assert requests.get(f"{service.url}/metrics", headers=headers, timeout=SECONDS).ok
