"""`blip-serve caption` with the real binary: its inputs, their order, and the formats of its output."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from service import Service
from support.clients import IMAGES, PROMPT, ROOT, SECONDS, expected, golden
from support.command_line import JPEG, PICTURES, PNG, PipedImage, command, lines, run, running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images, subfolders, and a text file."""
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.jpg", "sub/c.jpg", "sub/deep/d.JPG", ".thumbs/e.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(JPEG, folder / name)
    shutil.copy(PNG, folder / "scan")
    (folder / "notes.txt").write_text("not an image")
    return folder


def names(photos: Path, *arguments: object, **options: object) -> list[str]:
    return [str(Path(line["image"]).relative_to(photos)) for line in lines(*arguments, **options)]


@pytest.mark.parametrize(
    ("prompt", "flags", "parameters"),
    [
        (None, [], {}),
        (PROMPT, [], {}),
        (
            None,
            ["--num-beams", "3", "--num-return-sequences", "3"],
            {"num_beams": 3, "num_return_sequences": 3},
        ),
        (None, ["--max-new-tokens", "2"], {"max_new_tokens": 2}),
        ("a picture of", ["--num-beams", "4", "--length-penalty", "-0.5", "--early-stopping=never"],
         {"num_beams": 4, "length_penalty": -0.5, "early_stopping": "never"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("jobs", [1, 8])
def test_captions_equal_those_of_transformers(
    prompt: str | None, flags: list[str], parameters: dict[str, object], jobs: int
) -> None:
    requests = [[c["image"], c["prompt"], c["parameters"]] for c in golden()["cases"]]
    pictures = [p for p in PICTURES if [p.name, prompt, parameters] in requests]
    assert len(pictures) == 4
    prompts = ["--prompt", prompt] if prompt else []
    got = lines(*pictures, *prompts, *flags, "--jobs", jobs)
    wanted = [
        (str(picture), index, c["text"], c["token_ids"], c["finish_reason"])
        for picture in pictures
        for index, c in enumerate(expected(picture.name, prompt, parameters))
    ]
    keys = ("image", "sequence_index", "caption", "token_ids", "finish_reason")
    assert [tuple(line[key] for key in keys) for line in got] == wanted


def test_captions_equal_those_of_the_service(service: Service) -> None:
    got = {line["image"]: (line["caption"], line["score"]) for line in lines(IMAGES)}
    assert list(got) == [str(picture) for picture in PICTURES]
    for picture in PICTURES:
        caption = service.caption(picture.read_bytes())[0]
        assert got[str(picture)] == (caption.text, pytest.approx(caption.score, rel=1e-6))


def test_the_images_of_a_folder_are_captioned_in_the_order_of_their_names(photos: Path) -> None:
    assert names(photos, photos) == ["a.jpg", "b.jpg", "scan"]
    every = ["a.jpg", "b.jpg", "scan", "sub/c.jpg", "sub/deep/d.JPG"]
    assert names(photos, photos, "--recursive") == every
    some = ["--recursive", "--exclude", "deep", "--include", "*.jpg"]
    assert names(photos, *some, photos) == ["a.jpg", "b.jpg", "sub/c.jpg"]


def test_the_images_that_match_a_pattern_are_captioned(photos: Path) -> None:
    assert names(photos, f"{photos}/**/*.jpg") == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert names(photos, f"{photos}/[b-s]*") == ["b.jpg", "scan"]
    here = lines("s*/*.jpg", "scan", "--models", ROOT / "models.toml", cwd=photos)
    assert [line["image"] for line in here] == ["sub/c.jpg", "scan"]
    # The name of an existing file is not a pattern.
    shutil.copy(PNG, photos / "[x].png")
    assert names(photos, photos / "[x].png") == ["[x].png"]


def test_an_input_without_an_image_is_an_error_and_the_others_are_captioned(photos: Path) -> None:
    (photos / "empty").mkdir()
    inputs = [f"{photos}/*.txt", photos / "empty", photos / "a.jgp", photos / "notes.txt", PNG]
    done = run("caption", *inputs)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{PNG}\t".encode()) and done.stdout.count(b"\n") == 1
    errors = done.stderr.decode().splitlines()
    parts = ["no image matches", "no image in this folder", "did you mean", "notes.txt: "]
    assert len(errors) == len(parts) and all(map(str.__contains__, errors, parts)), errors
    assert errors[2].endswith("a.jpg?")


def test_a_list_of_files_is_separated_by_newlines_or_nul(tmp_path: Path) -> None:
    odd = tmp_path / "a\nb *.png"
    shutil.copy(PNG, odd)
    by_nul = lines(
        "--files-from", "-", "--null", stdin=b"%b\0%b\0" % (odd.as_posix().encode(), bytes(PNG))
    )
    assert [line["image"] for line in by_nul] == [str(odd), str(PNG)]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{PNG}\n\n{JPEG}\r\n")
    assert [line["image"] for line in lines(JPEG, "--files-from", listed)] == [
        str(each) for each in (JPEG, PNG, JPEG)
    ]
    assert lines("--files-from", "-") == []


def test_one_image_is_read_from_standard_input() -> None:
    (line,) = lines("-", stdin=PNG.read_bytes())
    assert (line["image"], line["caption"]) == ("-", expected(PNG.name)[0]["text"])
    assert run("caption", "-", "--files-from", "-").returncode == 1
    large = run("caption", "-", "--max-image-bytes", "9", stdin=b"0123456789")
    assert (large.returncode, large.stdout) == (1, b"")
    assert large.stderr == b"-: the file is larger than --max-image-bytes 9\n"


def test_results_are_printed_in_the_order_of_the_input(tmp_path: Path) -> None:
    # Decoding the first takes longest.
    Image.effect_noise((3000, 2000), 90).save(tmp_path / "0.png")
    for index in range(1, 20):
        os.symlink(PICTURES[index % len(PICTURES)], tmp_path / f"{index:02}.png")
    one, many, any_order = (
        run("caption", tmp_path, "--jobs", jobs, *flags).stdout.splitlines()
        for jobs, flags in ((1, []), (16, []), (16, ["--unordered"]))
    )
    assert len(one) == 20 and one == many
    assert sorted(any_order) == sorted(one)


def test_several_images_are_processed_at_the_same_time(tmp_path: Path) -> None:
    first, second = PipedImage(tmp_path / "first.png"), PipedImage(tmp_path / "second.png")
    flags = ["caption", first.path, second.path, "--jobs", 2, "--unordered"]
    with running(*flags) as process:
        pipe = first.open()
        second.write(PNG.read_bytes())
        assert process.stdout.readline().startswith(bytes(second.path) + b"\t")
        with pipe:
            pipe.write(PNG.read_bytes())
        assert process.stdout.readline().startswith(bytes(first.path) + b"\t")
        assert process.wait(SECONDS) == 0


def test_at_most_as_many_images_as_jobs_are_processed_at_the_same_time(tmp_path: Path) -> None:
    first, second = PipedImage(tmp_path / "first.png"), PipedImage(tmp_path / "second.png")
    with running("caption", first.path, second.path, "--jobs", 1) as process:
        with first.open() as pipe:
            assert not second.is_opened()
            pipe.write(PNG.read_bytes())
        second.write(PNG.read_bytes())
        assert process.wait(SECONDS) == 0


def test_csv_output_is_read_by_python(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b",\nc.png'
    shutil.copy(PNG, odd)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    done = run(
        "caption", odd, bad, "--format", "csv", "--num-beams", 2, "--num-return-sequences", 2
    )
    assert (done.returncode, done.stderr) == (1, b"")
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    json_lines = lines(odd, "--num-beams", 2, "--num-return-sequences", 2)
    assert len(json_lines) == 2
    for row, line in zip(rows, json_lines, strict=False):
        assert float(row["score"]) == line["score"]
        shared = ("image", "caption", "finish_reason")
        assert {key: row[key] for key in shared} == {key: line[key] for key in shared}
        assert (row["sequence_index"], row["error"]) == (str(line["sequence_index"]), "")
    assert len(rows) == 3 and rows[2]["error"]
    assert [rows[2][key] for key in ("image", "caption", "score")] == [str(bad), "", ""]


def test_names_that_are_not_unicode_stay_distinct(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    odd = [folder + b"/caf\xe8.png", folder + b"/caf\xe9.png"]
    for name in odd:
        shutil.copy(PNG, name)
    text = run("caption", *odd).stdout.splitlines()
    assert [line.split(b"\t")[0] for line in text] == odd
    escaped = [f"{tmp_path}/caf\\xE8.png", f"{tmp_path}/caf\\xE9.png"]
    for inputs in (odd, [tmp_path], [f"{tmp_path}/*.png"]):
        assert [line["image"] for line in lines(*inputs)] == escaped
    output = tmp_path / "captions.csv"
    flags = ["caption", "--output", output]
    assert run(*flags, odd[0]).returncode == 0
    assert run(*flags, "--resume", *odd, folder + b"/\xff").returncode == 1
    with output.open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [*escaped, f"{tmp_path}/\\xFF"]


def test_a_closed_standard_output_ends_the_command_without_an_error(tmp_path: Path) -> None:
    piped = PipedImage(tmp_path / "piped.png")
    with running("caption", PNG, piped.path, "--jobs", 1) as process:
        process.stdout.readline()
        process.stdout.close()
        piped.write(PNG.read_bytes())
        assert (process.wait(SECONDS), process.stderr.read()) == (141, b"")


def on_terminal(*arguments: object) -> str:
    """Returns what a run writes to standard error if only that is a terminal."""
    terminal, child_end = pty.openpty()
    # A narrow terminal would cut the line.
    pty_size = ["sh", "-c", 'stty cols 120 <&2; exec "$@"', "sh"]
    with subprocess.Popen(
        [*pty_size, *command(*arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=child_end
    ) as process:
        os.close(child_end)
        output = b""
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:
                break
            if not part:
                break
            output += part
        assert process.wait(SECONDS) == 0
    os.close(terminal)
    return output.decode()


def test_progress_is_shown_on_a_terminal_only() -> None:
    shown = on_terminal("caption", *PICTURES)
    total = len(PICTURES)
    assert f"of {total} images" in shown and f"{total} of {total} images captioned" in shown
    assert on_terminal("caption", "--quiet", *PICTURES) == ""
    assert on_terminal("caption", "--progress", "never", *PICTURES) == ""
    assert run("caption", *PICTURES).stderr == b""
    summary = run("caption", "--progress", "always", *PICTURES).stderr.decode()
    assert summary.startswith(f"{total} of {total} images captioned")


def test_json_lines_have_these_keys_in_this_order() -> None:
    done = run("caption", "--json", PNG)
    (line,) = done.stdout.splitlines()
    keys = ["image", "sequence_index", "caption", "token_ids", "score", "finish_reason"]
    assert list(json.loads(line)) == keys
