"""Models that are replaced, added, removed and refused while the service runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from service import ROOT, Service, models_toml
from support.clients import caption, picture
from support.metrics_page import value

SECONDS = 30
SCENES = ROOT / "models" / "scenes"
PARTS = ("manifest.json", "vision_encoder.onnx", "text_decoder.onnx", "tokenizer.json")


def caption_text(service: Service, model: str = "") -> str:
    return service.caption(picture(), "a photography of", model=model)[0].text


def page(service: Service) -> str:
    return requests.get(f"{service.url}/metrics", timeout=SECONDS).text


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def count_reloads(service: Service, outcome: str) -> float:
    return value(page(service), "blip_reloads_total", what="models", outcome=outcome)


def test_models_are_added_and_removed_with_models_toml(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"a": SCENES}, "a"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        assert caption_text(service) == caption()
        catalogue.write_text(models_toml({"a": SCENES, "b": scenes_copy}, "b"))
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: count_reloads(service, "ok") == 1)
        assert caption_text(service, "b") == caption_text(service, "a") == caption()
        index = service.post("/v2/repository/index", {})
        assert [(each["name"], each["state"]) for each in index] == [("a", "READY"), ("b", "READY")]
        catalogue.write_text(models_toml({"b": scenes_copy}, "b"))
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: count_reloads(service, "ok") == 2)
        assert requests.get(f"{service.url}/v2/models/a", timeout=SECONDS).status_code == 404
        assert value(page(service), "blip_model_info", model="a") == 0


def replace_by_rename(file: Path) -> None:
    garbage = file.with_suffix(".new")
    garbage.write_bytes(os.urandom(file.stat().st_size))
    garbage.rename(file)


def corrupt_catalogue(file: Path) -> None:
    catalogue = file.parents[1] / "models.toml"
    catalogue.write_text(catalogue.read_text() + "\nnonsense = ")


@pytest.mark.parametrize("damage", [replace_by_rename, Path.unlink, corrupt_catalogue])
@pytest.mark.parametrize("part", PARTS)
def test_an_invalid_bundle_or_catalogue_changes_nothing(
    tmp_path: Path, scenes_copy: Path, damage: Callable[[Path], None], part: str
) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"copy": scenes_copy}, "copy"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        damage(scenes_copy / part)
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: count_reloads(service, "failed") == 1)
        assert caption_text(service) == caption()
        assert requests.get(f"{service.url}/v2/health/ready", timeout=SECONDS).ok
        assert count_reloads(service, "ok") == 0


def test_requests_are_answered_while_a_model_is_replaced(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"copy": scenes_copy}, "copy") + "caption_cache_bytes = 0\n")
    with Service(models=catalogue, log=tmp_path / "log") as service:
        done, seen = threading.Event(), []

        def ask() -> None:
            while not done.is_set():
                seen.append(caption_text(service))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for count in range(1, 4):
            # The same bundle with another inode counts as a new model.
            for file in list(scenes_copy.iterdir()):
                shutil.copy(file, scenes_copy / "next")
                (scenes_copy / "next").rename(file)
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda count=count: count_reloads(service, "ok") == count)
        done.set()
        for thread in threads:
            thread.join()
        assert len(seen) > 20
        assert set(seen) == {caption()}


def test_triton_clients_load_and_unload_models(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"a": SCENES}, "a"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        http = tritonclient.http.InferenceServerClient(service.address)
        rpc = tritonclient.grpc.InferenceServerClient(service.address)
        for client in (http, rpc):
            client.unload_model("a")
            assert not client.is_model_ready("a")
            answer = requests.post(
                f"{service.url}/v1/captions", files={"image": picture()}, timeout=SECONDS
            )
            assert (answer.status_code, answer.json()["error"]) == (503, "the model is not loaded")
            assert service.post("/v2/repository/index", {})[0]["state"] == "UNAVAILABLE"
            client.load_model("a")
            assert client.is_model_ready("a")
            assert caption_text(service) == caption()
            with pytest.raises(tritonclient.grpc.InferenceServerException):
                client.load_model("none")
            with pytest.raises(tritonclient.grpc.InferenceServerException):
                client.load_model("a", config="{}")


class PublicService(Service):
    """A service that listens on all interfaces."""

    @property
    def address(self) -> str:
        return f"0.0.0.0:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def test_a_public_service_refuses_to_unload_models_by_default(tmp_path: Path) -> None:
    with PublicService(log=tmp_path / "log", flags=()) as service:
        url = f"{service.url}/v2/repository/models/scenes/unload"
        assert requests.post(url, timeout=SECONDS).status_code == 403
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{service.port}")
        with pytest.raises(tritonclient.grpc.InferenceServerException) as failure:
            client.unload_model("scenes")
        assert failure.value.status() == str(grpc.StatusCode.PERMISSION_DENIED)
    with PublicService(log=tmp_path / "log", flags=("--model-control",)) as service:
        url = f"{service.url}/v2/repository/models/scenes/unload"
        assert requests.post(url, timeout=SECONDS).status_code == 200


def test_a_cross_origin_page_cannot_unload_a_model(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        url = f"{service.url}/v2/repository/models/scenes/unload"
        for origin in ("https://example.com", "null", f"http://localhost:{service.port}"):
            headers = {"origin": origin}
            assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 403
        assert caption_text(service) == caption()
        headers = {"origin": service.url}
        assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 200


def test_a_load_is_completed_after_its_client_timed_out(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        url = f"{service.url}/v2/repository/models/scenes/load"
        headers = {"x-request-timeout-ms": "20"}
        assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 504
        wait_until(lambda: count_reloads(service, "ok") == 1)
        assert caption_text(service) == caption()


def test_a_model_larger_than_the_memory_is_refused(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"copy": scenes_copy}, "copy"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        manifest = json.loads((scenes_copy / "manifest.json").read_text())
        for file in manifest["files"].values():
            file["bytes"] = 1 << 50
        (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
        url = f"{service.url}/v2/repository/models/copy/load"
        answer = requests.post(url, timeout=SECONDS)
        assert (answer.status_code, "too little memory" in answer.text) == (503, True)
        assert caption_text(service) == caption()
