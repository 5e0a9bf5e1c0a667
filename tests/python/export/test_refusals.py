"""Errors of the exporter: one line on stderr, a non-zero exit code and no file left behind."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from blip_onnx import cli
from blip_onnx.graphs import text_decoder
from support.exporting import Exporter, edit_json


@pytest.fixture
def refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function that runs the exporter, asserts a clean failure and returns its line on stderr."""

    def run(model: Path | str, *flags: str, output: Path = tmp_path / "out" / "bundle") -> str:
        before = sorted(output.iterdir()) if output.is_dir() else output.exists()
        arguments = ["--model", str(model), "--output", str(output), *flags]
        monkeypatch.setattr(sys, "argv", ["export_onnx.py", *arguments])
        capfd.readouterr()
        assert cli.main() == 1
        assert (sorted(output.iterdir()) if output.is_dir() else output.exists()) == before
        assert list(output.parent.glob(".*")) == []
        error = capfd.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return run


def test_a_missing_model_is_refused(refuses: Callable[..., str], tmp_path: Path) -> None:
    assert "nowhere" in refuses(tmp_path / "nowhere")
    assert "nobody/nothing" in refuses("nobody/nothing")


def test_another_architecture_is_refused(refuses: Callable[..., str], copy: Path) -> None:
    def question_answering(content: dict[str, Any]) -> None:
        content["architectures"] = ["BlipForQuestionAnswering"]

    edit_json(copy / "config.json", question_answering)
    assert "BlipForQuestionAnswering" in refuses(copy)
    (copy / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    assert "bert (BertModel)" in refuses(copy)
    (copy / "config.json").unlink()
    assert "config.json" in refuses(copy)


def test_a_missing_tokenizer_is_refused(refuses: Callable[..., str], copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "has no tokenizer" in refuses(copy)
    (copy / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    assert "tokenizer" in refuses(copy)


def test_a_missing_preprocessor_is_refused(refuses: Callable[..., str], copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    assert "preprocessor_config.json" in refuses(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", {"height": 48, "width": 48}),
        ("size", {"shortest_edge": 32}),
        ("do_resize", False),
        ("do_center_crop", True),
        ("image_processor_type", "CLIPImageProcessor"),
        ("resample", 9),
    ],
)
def test_unsupported_preprocessing_is_refused(
    refuses: Callable[..., str], copy: Path, name: str, value: Any
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["image_processor"][name] = value

    edit_json(copy / "processor_config.json", change)
    line = refuses(copy)
    assert name in line or "CLIPImageProcessor" in line or "preprocessor" in line


def test_missing_or_damaged_weights_are_refused(refuses: Callable[..., str], copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    removed = "text_decoder.bert.encoder.layer.1.output.dense.weight"
    partial = {name: tensor for name, tensor in weights.items() if name != removed}
    safetensors.torch.save_file(partial, path, {"format": "pt"})
    assert removed in refuses(copy)
    other = weights | {removed: weights[removed][:-1].clone()}
    safetensors.torch.save_file(other, path, {"format": "pt"})
    assert "weights" in refuses(copy)
    path.write_bytes(path.read_bytes()[:100])
    assert "weights" in refuses(copy)


def test_an_unknown_activation_is_refused(refuses: Callable[..., str], copy: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["text_config"]["hidden_act"] = "mish"

    edit_json(copy / "config.json", change)
    assert "'mish'" in refuses(copy)


def test_unsupported_generation_settings_are_refused(
    refuses: Callable[..., str], copy: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["text_config"]["guidance_scale"] = 2.0

    edit_json(copy / "config.json", change)
    assert "guidance_scale" in refuses(copy)


def test_an_output_that_is_in_use_is_refused(
    refuses: Callable[..., str], tiny: Path, tmp_path: Path
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("kept")
    assert "not empty" in refuses(tiny, output=used)
    assert "not a folder" in refuses(tiny, output=used / "file")
    assert (used / "file").read_text() == "kept"


def test_invalid_flags_are_refused(refuses: Callable[..., str], tiny: Path, tmp_path: Path) -> None:
    assert "--min-agreement" in refuses(tiny, "--min-agreement", "1.5")
    assert "not a folder" in refuses(tiny, "--images", str(tmp_path / "nowhere"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "note.txt").write_text("not an image")
    assert "no readable image" in refuses(tiny, "--images", str(tmp_path / "pictures"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_is_refused_with_too_few_images(
    refuses: Callable[..., str], exporter: Exporter, tiny: Path, tmp_path: Path, precision: str
) -> None:
    wanted = f"--images: --precision {precision} needs at least 32 images, got"
    assert f"{wanted} 0 (--min-agreement 0" in refuses(tiny, "--precision", precision)
    flags = ("--precision", precision, "--images")
    assert f"{wanted} 2 (" in refuses(tiny, *flags, str(exporter.pictures))
    # Files that are not images do not count.
    folder = Path(shutil.copytree(exporter.pictures, tmp_path / "pictures"))
    for index in range(40):
        (folder / f"{index}.txt").write_text("not an image")
    assert f"{wanted} 2 (" in refuses(tiny, *flags, str(folder))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits the files that the process writes to 64 KiB, with the error of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(
    refuses: Callable[..., str], tiny: Path, small_files: None
) -> None:
    assert "disk full" in refuses(tiny)


def test_a_bundle_with_other_captions_than_transformers_is_removed(
    refuses: Callable[..., str], exporter: Exporter, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unused cache slots are attended to: the captions are others.
    monkeypatch.setattr(text_decoder, "_MASKED", 0.0)
    assert "verification failed" in refuses(tiny, "--images", str(exporter.pictures))
