"""`blip-serve caption` with the real binary: what is captioned, in which order, how it is written."""

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
from support.command_line import JPEG, PICTURES, PNG, Waiting, command, lines, run, running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with pictures, folders, and files that are none."""
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.jpg", "sub/c.jpg", "sub/deep/d.JPG", ".thumbs/e.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(JPEG, folder / name)
    shutil.copy(PNG, folder / "scan")
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(photos: Path, *arguments: object, **how: object) -> list[str]:
    return [str(Path(line["image"]).relative_to(photos)) for line in lines(*arguments, **how)]


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
def test_captions_are_those_of_transformers(
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


def test_captions_are_those_of_the_service(service: Service) -> None:
    got = {line["image"]: (line["caption"], line["score"]) for line in lines(IMAGES)}
    assert list(got) == [str(picture) for picture in PICTURES]
    for picture in PICTURES:
        caption = service.caption(picture.read_bytes())[0]
        assert got[str(picture)] == (caption.text, pytest.approx(caption.score, rel=1e-6))


def test_a_folder_gives_its_pictures_by_name(photos: Path) -> None:
    assert names(photos, photos) == ["a.jpg", "b.jpg", "scan"]
    every = ["a.jpg", "b.jpg", "scan", "sub/c.jpg", "sub/deep/d.JPG"]
    assert names(photos, photos, "--recursive") == every
    some = ["--recursive", "--exclude", "deep", "--include", "*.jpg"]
    assert names(photos, *some, photos) == ["a.jpg", "b.jpg", "sub/c.jpg"]


def test_a_pattern_gives_the_pictures_that_match(photos: Path) -> None:
    assert names(photos, f"{photos}/**/*.jpg") == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert names(photos, f"{photos}/[b-s]*") == ["b.jpg", "scan"]
    here = lines("s*/*.jpg", "scan", "--models", ROOT / "models.toml", cwd=photos)
    assert [line["image"] for line in here] == ["sub/c.jpg", "scan"]
    # A file of that name is no pattern.
    shutil.copy(PNG, photos / "[x].png")
    assert names(photos, photos / "[x].png") == ["[x].png"]


def test_what_gives_no_picture_is_an_error_and_the_rest_goes_on(photos: Path) -> None:
    (photos / "empty").mkdir()
    inputs = [f"{photos}/*.txt", photos / "empty", photos / "a.jgp", photos / "notes.txt", PNG]
    done = run("caption", *inputs)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{PNG}\t".encode()) and done.stdout.count(b"\n") == 1
    said = done.stderr.decode().splitlines()
    parts = ["no image matches", "no image in this folder", "did you mean", "notes.txt: "]
    assert len(said) == len(parts) and all(map(str.__contains__, said, parts)), said
    assert said[2].endswith("a.jpg?")


def test_lists_are_read_line_by_line_or_by_nul(tmp_path: Path) -> None:
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


def test_one_picture_comes_from_standard_input() -> None:
    (line,) = lines("-", stdin=PNG.read_bytes())
    assert (line["image"], line["caption"]) == ("-", expected(PNG.name)[0]["text"])
    assert run("caption", "-", "--files-from", "-").returncode == 1
    large = run("caption", "-", "--max-image-bytes", "9", stdin=b"0123456789")
    assert (large.returncode, large.stdout) == (1, b"")
    assert large.stderr == b"-: the file is larger than --max-image-bytes 9\n"


def test_results_come_in_the_order_of_the_input(tmp_path: Path) -> None:
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


def test_several_pictures_are_worked_on_at_once(tmp_path: Path) -> None:
    first, second = Waiting(tmp_path / "first.png"), Waiting(tmp_path / "second.png")
    flags = ["caption", first.path, second.path, "--jobs", 2, "--unordered"]
    with running(*flags) as process:
        pipe = first.opened()
        second.write(PNG.read_bytes())
        assert process.stdout.readline().startswith(bytes(second.path) + b"\t")
        with pipe:
            pipe.write(PNG.read_bytes())
        assert process.stdout.readline().startswith(bytes(first.path) + b"\t")
        assert process.wait(SECONDS) == 0


def test_no_more_pictures_than_jobs_are_worked_on(tmp_path: Path) -> None:
    first, second = Waiting(tmp_path / "first.png"), Waiting(tmp_path / "second.png")
    with running("caption", first.path, second.path, "--jobs", 1) as process:
        with first.opened() as pipe:
            assert not second.is_opened()
            pipe.write(PNG.read_bytes())
        second.write(PNG.read_bytes())
        assert process.wait(SECONDS) == 0


def test_csv_is_what_python_reads(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b",\nc.png'
    shutil.copy(PNG, odd)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = run(
        "caption", odd, bad, "--format", "csv", "--num-beams", 2, "--num-return-sequences", 2
    )
    assert (done.returncode, done.stderr) == (1, b"")
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    json_lines = lines(odd, "--num-beams", 2, "--num-return-sequences", 2)
    for row, line in zip(rows, json_lines, strict=False):
        assert float(row["score"]) == line["score"]
        shared = ("image", "caption", "finish_reason")
        assert {key: row[key] for key in shared} == {key: line[key] for key in shared}
        assert (row["sequence_index"], row["error"]) == (str(line["sequence_index"]), "")
    assert len(rows) == 3 and rows[2]["error"]
    assert [rows[2][key] for key in ("image", "caption", "score")] == [str(bad), "", ""]


def test_names_that_are_not_unicode_are_kept_apart(tmp_path: Path) -> None:
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


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "waiting.png")
    with running("caption", PNG, waiting.path, "--jobs", 1) as process:
        process.stdout.readline()
        process.stdout.close()
        waiting.write(PNG.read_bytes())
        assert (process.wait(SECONDS), process.stderr.read()) == (141, b"")


def on_terminal(*arguments: object) -> str:
    """What a run writes to standard error if that is a terminal, and standard output is not."""
    ours, theirs = pty.openpty()
    # A narrow terminal would cut the line.
    pty_size = ["sh", "-c", 'stty cols 120 <&2; exec "$@"', "sh"]
    with subprocess.Popen(
        [*pty_size, *command(*arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            said += part
        assert process.wait(SECONDS) == 0
    os.close(ours)
    return said.decode()


def test_a_terminal_is_shown_progress_and_nothing_else_is() -> None:
    said = on_terminal("caption", *PICTURES)
    total = len(PICTURES)
    assert f"of {total} images" in said and f"{total} of {total} images captioned" in said
    assert on_terminal("caption", "--quiet", *PICTURES) == ""
    assert on_terminal("caption", "--progress", "never", *PICTURES) == ""
    assert run("caption", *PICTURES).stderr == b""
    told = run("caption", "--progress", "always", *PICTURES).stderr.decode()
    assert told.startswith(f"{total} of {total} images captioned")


def test_json_lines_stay_what_they_were() -> None:
    done = run("caption", "--json", PNG)
    (line,) = done.stdout.splitlines()
    keys = ["image", "sequence_index", "caption", "token_ids", "score", "finish_reason"]
    assert list(json.loads(line)) == keys
