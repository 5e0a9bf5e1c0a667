"""The other commands: bundles, completions, help, and the errors of mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from service import default_binary
from support.clients import ROOT, SECONDS
from support.command_line import PNG, run

BUNDLE = ROOT / "models" / "scenes"


def test_inspect_describes_a_bundle() -> None:
    done = run("bundle", "inspect", "--json", BUNDLE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    assert report["manifest"] == manifest
    assert (report["bundle"], report["verified"]) == (str(BUNDLE), True)
    files = [
        {"name": n, "bytes": f["bytes"], "state": "verified"} for n, f in manifest["files"].items()
    ]
    assert report["files"] == sorted(files, key=lambda file: file["name"])
    assert report["bytes"] == sum(file["bytes"] for file in files)
    # The default model, with its name or without.
    assert (
        run("bundle", "inspect", "--json", "scenes").stdout
        == run("bundle", "inspect", "--json").stdout
    )
    text = run("bundle", "inspect", BUNDLE).stdout.decode()
    for part in ("fp32", "bicubic", "max_new_tokens 20", "transformers 5.23.0", "cases 32"):
        assert part in text, part
    assert text.count("verified") == len(files)


def test_inspect_shows_the_damaged_files_of_a_bundle(scenes_copy: Path) -> None:
    content = bytearray((scenes_copy / "text_decoder.onnx.data").read_bytes())
    content[-1] ^= 1
    (scenes_copy / "text_decoder.onnx.data").write_bytes(content)
    (scenes_copy / "tokenizer.json").unlink()
    done = run("bundle", "inspect", "--json", scenes_copy)
    report = json.loads(done.stdout)
    assert (done.returncode, report["verified"]) == (1, False)
    states = {file["name"]: file["state"] for file in report["files"]}
    assert states["text_decoder.onnx.data"] == "changed" and states["tokenizer.json"] == "missing"
    assert states["vision_encoder.onnx"] == "verified"
    assert b"CHANGED" in run("bundle", "inspect", scenes_copy).stdout


def test_inspect_needs_no_onnx_runtime(tmp_path: Path) -> None:
    binary = shutil.copy(default_binary(), tmp_path / "blip-serve")

    def run_without_library(*arguments: object) -> int:
        command = [binary, *map(str, arguments)]
        return subprocess.run(command, env={}, capture_output=True, timeout=SECONDS).returncode

    assert run_without_library("bundle", "inspect", BUNDLE) == 0
    # A command that needs ONNX Runtime fails there.
    assert run_without_library("caption", "--model", BUNDLE, PNG) == 1


def test_bash_completes_commands_flags_and_values(tmp_path: Path) -> None:
    script = tmp_path / "completions"
    script.write_bytes(run("completions", "bash").stdout)
    program = (
        f'source "{script}"; COMP_WORDS=(blip-serve "$@"); COMP_CWORD=$#; '
        "complete=$(complete -p blip-serve); function=${complete#*-F }; "
        '${function%% *} blip-serve "${@: -1}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[@]}"'
    )

    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", program, "bash", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("capt") == ["caption"]
    assert completed("caption", "--res") == ["--resume"]
    assert completed("caption", "--format", "") == ["text", "jsonl", "csv"]
    for shell in ("zsh", "fish", "elvish", "powershell"):
        assert b"num-beams" in run("completions", shell).stdout, shell


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["caption"], ["check"], ["pixels"], ["completions"], ["bundle", "inspect"]],
)
def test_short_help_is_short_and_long_help_has_examples(command: list[str]) -> None:
    short, long = (run(*command, flag).stdout.decode() for flag in ("-h", "--help"))
    assert "Example" in long and "Example" not in short
    assert len(short.splitlines()) <= 30 and len(short) < len(long)


def test_flags_are_grouped_under_headings() -> None:
    text = run("caption", "--help").stdout.decode()
    headings = ["Input", "Output", "Models", "Generation", "Fetching", "Limits", "Observability"]
    assert all(f"\n{heading}:\n" in text for heading in headings), text
    assert text.index("\nInput:") < text.index("\nOutput:") < text.index("\nGeneration:")


def test_errors_of_mistakes_suggest_what_to_do(tmp_path: Path) -> None:
    def error_line(*arguments: object, cwd: Path = ROOT) -> str:
        done = run(*arguments, cwd=cwd)
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        return line

    assert error_line("caption", "--model", "scense", PNG).endswith("did you mean scenes?")
    assert "which has scenes" in error_line("caption", "--model", "photos", PNG)
    assert "manifest.json" in error_line("caption", "--model", tmp_path, PNG)
    for command in (["caption", PNG], ["check"], ["serve", "--listen", "127.0.0.1:0"]):
        line = error_line(*command, cwd=tmp_path)
        assert line.startswith("error: models.toml: there is no such file") and "--models" in line
    assert error_line("bundle", "inspect", "scense").endswith("did you mean scenes?")
    assert error_line("caption", str(PNG).replace("tree-cat", "treecat")).endswith(
        f"did you mean {PNG}?"
    )


@pytest.mark.parametrize(
    "arguments",
    [["caption"], ["caption", "--num-beans", "3", "x"], ["caption", "x", "--null"],
     ["caption", "x", "--jobs", "0"], ["caption", "x", "--resume"], ["completions", "tcsh"],
     ["caption", "x", "--json", "--format", "csv"]],
)  # fmt: skip
def test_an_invalid_command_line_exits_with_code_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ") and b"--help" in done.stderr


def test_settings_are_read_from_the_environment() -> None:
    environment = {**os.environ, "BLIP_MODELS": "/nowhere/models.toml"}
    command = [default_binary(), "bundle", "inspect"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS)
    assert done.returncode == 1 and b"/nowhere/models.toml" in done.stderr
