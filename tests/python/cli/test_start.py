"""Errors of a start that fails: one line that says what to do."""

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("BLIP_SERVE_BIN", ROOT / "target" / "release" / "blip-serve"))
BUNDLE = ROOT / "models" / "scenes"
FILES = ["manifest.json", "vision_encoder.onnx", "text_decoder.onnx", "tokenizer.json"]
GPU_LIBRARY = ROOT / ".onnxruntime-gpu" / "lib" / "libonnxruntime.so"
PICTURE = next(iter(sorted((ROOT / "examples" / "images").glob("*.png"))))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(BINARY), *map(str, arguments)]
    # A GPU of this machine is hidden.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
    )


def failure(*arguments: object) -> str:
    """Returns the error line of a command that must fail."""
    done = run(*arguments)
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "panicked" not in done.stderr
    return errors[0]


def write_models(folder: Path, providers: list[str], path: Path = BUNDLE) -> Path:
    models = folder / "models.toml"
    models.write_text(
        f'default = "m"\n[[models]]\nname = "m"\npath = {json.dumps(str(path))}\n'
        f"execution_providers = {json.dumps(providers)}\n"
    )
    return models


def test_check_accepts_the_embedded_model() -> None:
    done = run("check")
    jpeg, *models = done.stdout.splitlines()
    assert (done.returncode, models) == (0, ["scenes: ok"])
    assert jpeg in ("jpeg: simd", "jpeg: scalar")


def test_a_missing_library_is_named() -> None:
    line = failure("check", "--ort-library", "/nowhere/libonnxruntime.so")
    assert "/nowhere/libonnxruntime.so" in line and "--ort-library" in line


def test_a_file_that_is_not_a_library_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / "libonnxruntime.so"
    fake.write_bytes(b"not a library")
    line = failure("check", "--ort-library", fake)
    assert "ONNX Runtime cannot be used" in line and "1.31.1" in line


def test_a_library_that_is_too_old_is_refused_with_its_version(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text(
        'static const char *version(void) { return "1.17.3"; }\n'
        "static const void *api(unsigned v) { (void)v; return 0; }\n"
        "struct base { const void *(*get_api)(unsigned); const char *(*version)(void); };\n"
        "static const struct base base = {api, version};\n"
        "const struct base *OrtGetApiBase(void) { return &base; }\n"
    )
    library = tmp_path / "libonnxruntime.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    line = failure("check", "--ort-library", library)
    assert "1.17.3" in line and "--ort-library" in line


@pytest.mark.parametrize("name", FILES[1:])
def test_a_damaged_file_is_named(scenes_copy: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((scenes_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (scenes_copy / name).write_bytes(content)
    line = failure("check", "--models", write_models(tmp_path, ["cpu"], scenes_copy))
    assert name in line and "checksum" in line


def test_damaged_weights_are_named(scenes_copy: Path, tmp_path: Path) -> None:
    data = next(scenes_copy.glob("text_decoder*.data"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    line = failure("check", "--models", write_models(tmp_path, ["cpu"], scenes_copy))
    assert data.name in line and "checksum" in line


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(scenes_copy: Path, tmp_path: Path, name: str) -> None:
    (scenes_copy / name).unlink()
    line = failure("check", "--models", write_models(tmp_path, ["cpu"], scenes_copy))
    assert name in line and "export" in line


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("text", "num_hidden_layers", 40, "present.3.encoder.key"),
        ("text", "vocab_size", 40000, "logits"),
        ("vision", "num_tokens", 7, "present.0.encoder.key"),
        ("preprocessor", "height", 64, "pixel_values"),
    ],
)
def test_graphs_that_disagree_with_the_manifest_are_refused(
    scenes_copy: Path, tmp_path: Path, section: str, key: str, value: int, named: str
) -> None:
    manifest = json.loads((scenes_copy / "manifest.json").read_text())
    manifest[section][key] = value
    (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
    line = failure("check", "--models", write_models(tmp_path, ["cpu"], scenes_copy))
    assert named in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('default = "m"\nmodels = []\n', "default"),
        ('defaults = "m"\n', "defaults"),
        ('default = "m"\n[[models]]\nname = "m"\npath = "x"\nmax_row = 3\n', "max_row"),
        ('default = "m"\n[[models]]\nname = "m"\npath = "x"\nmax_rows = -3\n', "max_rows"),
        ("not toml", "models.toml"),
    ],
)
def test_an_invalid_key_of_models_toml_is_named(tmp_path: Path, text: str, named: str) -> None:
    models = tmp_path / "models.toml"
    models.write_text(text)
    done = run("check", "--models", models)
    assert done.returncode != 0 and named in done.stderr


@pytest.mark.parametrize("command", [["check"], ["serve", "--listen", "127.0.0.1:0"]])
def test_cuda_without_a_fallback_fails_without_a_gpu(tmp_path: Path, command: list[str]) -> None:
    models = write_models(tmp_path, ["cuda"])
    line = failure(*command, "--models", models, "--ort-library", GPU_LIBRARY)
    assert '"cuda"' in line and "GPU" in line


def test_cuda_then_cpu_falls_back_with_a_log_line(tmp_path: Path) -> None:
    models = write_models(tmp_path, ["cuda", "cpu"])
    done = run("caption", "--models", models, "--ort-library", GPU_LIBRARY, PICTURE)
    assert done.returncode == 0
    assert "falling back" in done.stderr and "cuda" in done.stderr
    assert done.stdout == run("caption", PICTURE).stdout


def test_cuda_is_refused_by_the_cpu_library(tmp_path: Path) -> None:
    line = failure("check", "--models", write_models(tmp_path, ["cuda"]))
    assert '"cuda"' in line and "onnxruntime-gpu" in line


def test_caption_prints_an_error_for_each_invalid_image_and_continues(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run("caption", bad, PICTURE)
    assert done.returncode != 0
    assert str(bad) in done.stderr and done.stdout.startswith(f"{PICTURE}\t")
    objects = [
        json.loads(line) for line in run("caption", "--json", bad, PICTURE).stdout.splitlines()
    ]
    assert [sorted(item) for item in objects] == [
        ["error", "image"],
        ["caption", "finish_reason", "image", "score", "sequence_index", "token_ids"],
    ]


def test_the_encoder_runs_once_per_image_with_any_number_of_beams() -> None:
    pictures = sorted((ROOT / "examples" / "images").iterdir())[:3]
    flags = ["--num-beams", "5", "--log", "blip_serve=debug"]
    done = run("caption", *flags, *pictures)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    # The self-test image is encoded too.
    assert done.stderr.count("image encoded") == 4


def test_caption_accepts_a_data_url() -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    done = run("caption", url, PICTURE)
    from_url, from_file = done.stdout.splitlines()
    assert from_url.split("\t")[1] == from_file.split("\t")[1]
