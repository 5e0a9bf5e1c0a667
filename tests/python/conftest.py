"""Shared by the exporter's tests: a tiny random checkpoint and the bundle exported from it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A name that is no folder must fail at once, not after a search on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import export_onnx
import pytest
import random_checkpoint
import torch
from transformers import BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

TINY = random_checkpoint.KINDS["tiny"]
# Work this small is slower on several threads.
torch.set_num_threads(1)


class Exporter:
    """Makes tiny checkpoints and exports them."""

    def __init__(self, pictures: Path) -> None:
        self.pictures = pictures
        self._tokenizer = random_checkpoint.load_tokenizer()

    def save(
        self, folder: Path, edit: Callable[[BlipForConditionalGeneration], None] = lambda _: None
    ) -> Path:
        """A checkpoint whose captions end now and then, after `edit`."""
        model = BlipForConditionalGeneration(random_checkpoint.make_config(TINY)).eval()
        random_checkpoint.spread_weights(model, seed=1)
        with torch.no_grad():
            model.text_decoder.cls.predictions.decoder.bias[102] = 13.0
        edit(model)
        model.save_pretrained(folder)
        size = {"height": TINY.image_size, "width": TINY.image_size}
        processor = BlipProcessor(BlipImageProcessorPil(size=size), self._tokenizer)
        processor.save_pretrained(folder)
        return folder

    def export(self, model: Path, output: Path) -> dict[str, Any]:
        """Export with two pictures to verify with; the manifest."""
        flags = ["--model", str(model), "--output", str(output), "--images", str(self.pictures)]
        return export_onnx.export(export_onnx.parse_arguments(flags))


@pytest.fixture(scope="session")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """The exporter, with two pictures of its own."""
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
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
