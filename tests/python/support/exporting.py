"""Helpers of the exporter's tests: tiny random checkpoints, and bundles exported from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip_onnx import cli
from oracle import random_checkpoint

TINY = random_checkpoint.KINDS["tiny"]
# Models this small are slower on several threads.
torch.set_num_threads(1)


class Exporter:
    """Makes tiny checkpoints and exports them."""

    def __init__(self, pictures: Path) -> None:
        self.pictures = pictures
        self._tokenizer = random_checkpoint.load_tokenizer()

    def save(
        self, folder: Path, edit: Callable[[BlipForConditionalGeneration], None] = lambda _: None
    ) -> Path:
        """Saves a checkpoint, changed by `edit`, in whose captions the end token is likely."""
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

    def export(self, model: Path, output: Path, *flags: str) -> dict[str, Any]:
        """Exports a bundle, verified with two images unless `flags` name others; returns the manifest."""
        arguments = ["--model", str(model), "--output", str(output)]
        if "--images" not in flags:
            arguments += ["--images", str(self.pictures)]
        return cli.export(cli.parse_arguments([*arguments, *flags]))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
