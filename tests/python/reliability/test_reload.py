"""Models that are replaced, added, taken away and refused while the service answers."""

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


def text(service: Service, model: str = "") -> str:
    return service.caption(picture(), "a photography of", model=model)[0].text


def page(service: Service) -> str:
    return requests.get(f"{service.url}/metrics", timeout=SECONDS).text


def eventually(what: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def reloads(service: Service, outcome: str) -> float:
    return value(page(service), "blip_reloads_total", what="models", outcome=outcome)


def test_models_come_and_go_with_the_file(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"a": SCENES}, "a"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        assert text(service) == caption()
        catalogue.write_text(models_toml({"a": SCENES, "b": scenes_copy}, "b"))
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: reloads(service, "ok") == 1)
        assert text(service, "b") == text(service, "a") == caption()
        index = service.post("/v2/repository/index", {})
        assert [(each["name"], each["state"]) for each in index] == [("a", "READY"), ("b", "READY")]
        catalogue.write_text(models_toml({"b": scenes_copy}, "b"))
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: reloads(service, "ok") == 2)
        assert requests.get(f"{service.url}/v2/models/a", timeout=SECONDS).status_code == 404
        assert value(page(service), "blip_model_info", model="a") == 0


def replace_by_rename(file: Path) -> None:
    garbage = file.with_suffix(".new")
    garbage.write_bytes(os.urandom(file.stat().st_size))
    garbage.rename(file)


def cut_the_catalogue(file: Path) -> None:
    catalogue = file.parents[1] / "models.toml"
    catalogue.write_text(catalogue.read_text() + "\nnonsense = ")


@pytest.mark.parametrize("damage", [replace_by_rename, Path.unlink, cut_the_catalogue])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_wrong_changes_nothing(
    tmp_path: Path, scenes_copy: Path, damage: Callable[[Path], None], part: str
) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"own": scenes_copy}, "own"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        damage(scenes_copy / part)
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: reloads(service, "failed") == 1)
        assert text(service) == caption()
        assert requests.get(f"{service.url}/v2/health/ready", timeout=SECONDS).ok
        assert reloads(service, "ok") == 0


def test_requests_go_on_while_a_model_is_replaced(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"own": scenes_copy}, "own") + "caption_cache_bytes = 0\n")
    with Service(models=catalogue, log=tmp_path / "log") as service:
        done, seen = threading.Event(), []

        def ask() -> None:
            while not done.is_set():
                seen.append(text(service))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for count in range(1, 4):
            # The same bundle under another inode: a new model all the same.
            for file in list(scenes_copy.iterdir()):
                shutil.copy(file, scenes_copy / "next")
                (scenes_copy / "next").rename(file)
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda count=count: reloads(service, "ok") == count)
        done.set()
        for thread in threads:
            thread.join()
        assert len(seen) > 20
        assert set(seen) == {caption()}


def test_triton_s_clients_load_and_unload(tmp_path: Path) -> None:
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
            assert text(service) == caption()
            with pytest.raises(tritonclient.grpc.InferenceServerException):
                client.load_model("none")
            with pytest.raises(tritonclient.grpc.InferenceServerException):
                client.load_model("a", config="{}")


class PublicService(Service):
    """Listens beyond this machine."""

    @property
    def address(self) -> str:
        return f"0.0.0.0:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def test_not_everyone_may_unload(tmp_path: Path) -> None:
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


def test_pages_of_others_may_not_unload(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        url = f"{service.url}/v2/repository/models/scenes/unload"
        for origin in ("https://example.com", "null", f"http://localhost:{service.port}"):
            headers = {"origin": origin}
            assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 403
        assert text(service) == caption()
        headers = {"origin": service.url}
        assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 200


def test_a_model_is_loaded_to_the_end_whoever_waits(tmp_path: Path) -> None:
    with Service(log=tmp_path / "log") as service:
        url = f"{service.url}/v2/repository/models/scenes/load"
        headers = {"x-request-timeout-ms": "20"}
        assert requests.post(url, headers=headers, timeout=SECONDS).status_code == 504
        eventually(lambda: reloads(service, "ok") == 1)
        assert text(service) == caption()


def test_a_model_that_would_not_fit_is_refused(tmp_path: Path, scenes_copy: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(models_toml({"own": scenes_copy}, "own"))
    with Service(models=catalogue, log=tmp_path / "log") as service:
        manifest = json.loads((scenes_copy / "manifest.json").read_text())
        for file in manifest["files"].values():
            file["bytes"] = 1 << 50
        (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
        url = f"{service.url}/v2/repository/models/own/load"
        answer = requests.post(url, timeout=SECONDS)
        assert (answer.status_code, "too little memory" in answer.text) == (503, True)
        assert text(service) == caption()
