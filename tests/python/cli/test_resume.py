"""`blip-serve caption --output --resume` after a crash, an interruption or a failure."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from support.clients import SECONDS
from support.command_line import JPEG, PICTURES, PNG, PipedImage, await_line, run, running

INCOMPLETE = {"jsonl": b'{"image":"half', "csv": b'"half,\n of'}


def images(output: Path) -> list[str]:
    """Returns the images of an output file in its order; none may have failed."""
    with output.open(newline="") as file:
        if output.suffix == ".csv":
            rows = list(csv.DictReader(file))
        else:
            rows = [json.loads(line) for line in file]
    assert not any(row.get("error") for row in rows), rows
    assert all(row["caption"] for row in rows)
    return [row["image"] for row in rows]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_after_sigkill_captions_the_remaining_images(tmp_path: Path, suffix: str) -> None:
    piped, output = PipedImage(tmp_path / "piped.png"), tmp_path / f"captions.{suffix}"
    flags = ["caption", PNG, piped.path, JPEG, "--output", output]
    with running(*flags, "--jobs", 1) as process, piped.open():
        process.send_signal(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert images(output) == [str(PNG)]
    before = output.read_bytes()
    # A crash of the machine would leave an incomplete line.
    output.write_bytes(before + INCOMPLETE[suffix])
    piped.path.unlink()
    piped.path.write_bytes(PNG.read_bytes())
    done = run(*flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert b"2 of 2 images captioned, 1 were already done" in done.stderr
    assert images(output) == [str(PNG), str(piped.path), str(JPEG)]
    assert output.read_bytes().startswith(before)
    complete = output.read_bytes()
    assert run(*flags, "--resume").returncode == 0
    assert output.read_bytes() == complete


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_output_file_truncated_anywhere_is_completed(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"captions.{suffix}"
    flags = ["caption", *PICTURES[:3], "--num-beams", 2, "--num-return-sequences", 2]
    flags += ["--output", output, "--jobs", 1]
    assert run(*flags).returncode == 0
    whole = output.read_bytes()
    assert len(images(output)) == 6
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in [0, 3, *ends[:3], ends[1] + 9, ends[-2] - 1, ends[-2], len(whole) - 5]:
        output.write_bytes(whole[:cut])
        done = run(*flags, "--resume")
        assert done.returncode == 0, done.stderr
        assert sorted(output.read_bytes().splitlines()) == sorted(whole.splitlines()), cut


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_images_in_progress(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    piped, output = PipedImage(tmp_path / "piped.png"), tmp_path / "captions.jsonl"
    flags = ["caption", PNG, piped.path, JPEG, "--output", output, "--jobs", 1]
    with running(*flags) as process:
        with piped.open() as pipe:
            process.send_signal(number)
            await_line(process, b"finishing the images in progress")
            pipe.write(PNG.read_bytes())
        await_line(process, b"interrupted: 2 of 3 images captioned")
        assert process.wait(SECONDS) == code
    assert images(output) == [str(PNG), str(piped.path)]
    assert run(*flags, "--resume").returncode == 0
    assert images(output) == [str(PNG), str(piped.path), str(JPEG)]


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    piped = PipedImage(tmp_path / "piped.png")
    with running("caption", piped.path) as process, piped.open():
        process.send_signal(signal.SIGINT)
        await_line(process, b"another signal stops at once")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130


def test_failed_images_are_tried_again(tmp_path: Path) -> None:
    late, output = tmp_path / "late.png", tmp_path / "captions.jsonl"
    flags = ["caption", late, PNG, "--output", output]
    assert run(*flags).returncode == 1
    failed, captioned = map(json.loads, output.read_text().splitlines())
    assert (sorted(failed), failed["image"]) == (["error", "image"], str(late))
    assert captioned["image"] == str(PNG)
    late.write_bytes(PNG.read_bytes())
    assert run(*flags, "--resume").returncode == 0
    assert images(output) == [str(PNG), str(late)]


def test_an_existing_output_file_is_not_overwritten_by_default(tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    flags = ["caption", PNG, "--output", output]
    assert run(*flags).returncode == 0
    before = output.read_bytes()
    refused = run(*flags)
    assert refused.returncode == 1 and output.read_bytes() == before
    assert b"--resume" in refused.stderr and b"--overwrite" in refused.stderr
    assert run("caption", JPEG, "--output", output, "--overwrite").returncode == 0
    assert images(output) == [str(JPEG)]
    (tmp_path / "notes.csv").write_text("dear,diary\n")
    wrong = run("caption", PNG, "--output", tmp_path / "notes.csv", "--resume")
    assert wrong.returncode == 1 and b"line 1" in wrong.stderr
    assert (tmp_path / "notes.csv").read_text() == "dear,diary\n"
    text = run("caption", PNG, "--output", tmp_path / "captions.txt", "--resume")
    assert text.returncode == 1 and b"jsonl or csv" in text.stderr


def test_two_runs_cannot_write_to_one_file(tmp_path: Path) -> None:
    piped, output = PipedImage(tmp_path / "piped.png"), tmp_path / "captions.jsonl"
    with running("caption", piped.path, "--output", output) as process:
        with piped.open() as pipe:
            for flag in ("--resume", "--overwrite"):
                second = run("caption", PNG, "--output", output, flag)
                assert second.returncode == 1 and b"another process" in second.stderr
            pipe.write(PNG.read_bytes())
        assert process.wait(SECONDS) == 0
    assert images(output) == [str(piped.path)]


def test_an_output_may_be_a_device_or_a_link(tmp_path: Path) -> None:
    assert run("caption", PNG, "--output", "/dev/null", "--format", "csv").returncode == 0
    output, link = tmp_path / "captions.jsonl", tmp_path / "link.jsonl"
    os.symlink(output, link)
    output.write_bytes(INCOMPLETE["jsonl"])
    assert run("caption", PNG, "--output", link, "--resume").returncode == 0
    assert link.is_symlink() and images(output) == [str(PNG)]
