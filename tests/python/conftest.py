"""Fixtures of all tests: the running service, and a tiny bundle."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

# A model name that is not a folder must fail at once, not after a search on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# All servers of the tests are on this machine.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

import pytest

from service import ROOT, Service
from support.clients import IMAGES
from support.work import uncached_service

if TYPE_CHECKING:
    from support.exporting import Exporter


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the sample images without a log line on stderr for each request."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args, directory=str(IMAGES))

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="session")
def images_url() -> Iterator[str]:
    """The URL of a web server with the sample images."""
    with ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the repository's models.toml, one for all tests.

    Its caches are on, and all tests share them: a request that any test has sent before may be
    answered without a run of the model. Tests that count work use `uncached`.
    """
    with Service(log=tmp_path_factory.mktemp("service") / "service.log") as running:
        yield running


@pytest.fixture(scope="session")
def uncached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same model without caches: every request is computed, however often it is repeated."""
    with uncached_service(tmp_path_factory.mktemp("uncached")) as running:
        yield running


@pytest.fixture(scope="session")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """The exporter, with two random images for verification."""
    from oracle import random_checkpoint
    from support.exporting import Exporter

    pictures = tmp_path_factory.mktemp("pictures")
    for index, image in enumerate(random_checkpoint.random_images(2, 50, seed=7)):
        image.save(pictures / f"{index}.png")
    return Exporter(pictures)


@pytest.fixture(scope="session")
def tiny(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    return exporter.save(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def bundle(exporter: Exporter, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, exported."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    exporter.export(tiny, folder)
    return folder


@pytest.fixture
def scenes_copy(tmp_path: Path) -> Path:
    """A copy of the embedded bundle, to be damaged."""
    scenes, copy = ROOT / "models" / "scenes", tmp_path / "scenes"
    ignored = shutil.ignore_patterns("checkpoint", "sprites")
    return Path(shutil.copytree(scenes, copy, ignore=ignored))
