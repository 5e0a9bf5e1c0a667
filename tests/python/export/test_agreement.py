"""The accuracy gate: int8 agrees with fp32, keeps layers in fp32 where needed, or is refused.

The embedded model's checkpoint is tested on held-out scenes, the refusal with random weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration

from blip_onnx import ExportError, bundle
from oracle import random_checkpoint
from scenes import dataset
from support.exporting import TINY, Exporter

CHECKPOINT = Path(__file__).resolve().parents[3] / "models" / "scenes" / "checkpoint"
PICTURES = 32


@pytest.fixture(autouse=True)
def few_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares few images with transformers, which is the subject of other tests."""
    monkeypatch.setattr(bundle, "_VERIFIED_IMAGES", 2)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with rendered scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(PICTURES):
        scene = dataset.make_scene("heldout", index)
        Image.fromarray(dataset.render(scene)).save(folder / f"{index:02}.png")
    return str(folder)


def test_the_embedded_model_agrees_in_int8(
    exporter: Exporter, held_out: str, tmp_path: Path
) -> None:
    flags = ("--precision", "int8", "--images", held_out)
    figures = exporter.export(CHECKPOINT, tmp_path / "bundle", *flags)["quantization"]
    assert (figures["images"], figures["captions"]) == (PICTURES, 2 * PICTURES)
    assert figures["agreement"] >= 0.95
    assert figures["cider"] > 9
    assert figures["kept"] == []


def test_a_layer_that_loses_its_accuracy_in_int8_stays_in_fp32(
    exporter: Exporter, held_out: str, tmp_path: Path
) -> None:
    model = BlipForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    mlp = model.vision_model.encoder.layers[1].mlp
    # One huge activation that no layer uses determines the scale of all others.
    with torch.no_grad():
        mlp.fc1.bias[0] = 2000.0
        mlp.fc2.weight[:, 0] = 0.0
    model.save_pretrained(tmp_path / "checkpoint")
    AutoProcessor.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "checkpoint")
    flags = ("--precision", "int8", "--images", held_out)
    figures = exporter.export(tmp_path / "checkpoint", tmp_path / "bundle", *flags)["quantization"]
    assert figures["kept"] == ["vision_model.encoder.layers.1.mlp.fc2"]
    assert figures["agreement"] >= 0.95


def test_int8_is_refused_below_the_required_agreement(
    exporter: Exporter, tiny: Path, tmp_path: Path
) -> None:
    for index, image in enumerate(random_checkpoint.random_images(PICTURES, TINY.image_size, 3)):
        image.save(tmp_path / f"{index:02}.png")
    flags = ("--precision", "int8", "--images", str(tmp_path), "--min-agreement", "1")
    with pytest.raises(ExportError, match=r"int8: \d+ of 64 captions as in fp32 .* is 1\.0"):
        exporter.export(tiny, tmp_path / "out" / "bundle", *flags)
    assert list((tmp_path / "out").iterdir()) == []
