"""The tables of docs/ agree with the program."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from release import reference
from service import ROOT, Service, default_binary

MODELS = (ROOT / "docs" / "models.md").read_text()
FORMATS = (ROOT / "docs" / "formats.md").read_text()
CONFORMANCE = (ROOT / "docs" / "conformance.md").read_text()


@pytest.mark.parametrize(
    "page", [reference.SETTINGS, reference.PARAMETERS], ids=lambda page: page.name
)
def test_the_tables_equal_the_help_text(page: Path) -> None:
    assert page.read_text() == reference.pages(default_binary())[page]


def test_all_options_of_the_help_text_are_parsed() -> None:
    serve = [option for option in reference.help_options(default_binary(), "serve") if option.env]
    assert len(serve) >= 45 and all(option.heading and option.help for option in serve)
    assert sum(bool(option.default) for option in serve) >= 25
    names = re.findall(r"^\| `(\w+)` \|", reference.PARAMETERS.read_text(), re.MULTILINE)
    assert {"num_beams", "early_stopping", "seed"} <= set(names) and len(names) >= 15


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("| key | default | meaning |", "unknown = 1"),
        (
            "| key of `[[models]]` | default | meaning |",
            '[[models]]\nname = "m"\npath = "p"\nunknown = 1',
        ),
    ],
    ids=["catalogue", "model"],
)
def test_the_documented_keys_of_models_toml_are_those_that_the_program_accepts(
    header: str, text: str, tmp_path: Path
) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f'default = "m"\n{text}\n' if text.startswith("[[") else text)
    command = [str(default_binary()), "check", "--models", str(catalogue)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "unknown field `unknown`" in done.stderr, done.stderr
    expected = set(re.findall(r"`(\w+)`", done.stderr.split("expected")[1]))
    table = MODELS.split(header)[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == expected


def test_every_status_of_an_error_is_in_the_table_of_errors() -> None:
    answered = set(re.findall(r"→ ([45]\d\d)", CONFORMANCE))
    assert {"400", "404", "429"} <= answered
    assert answered <= set(re.findall(r"^\| (\d{3}) \|", FORMATS, re.MULTILINE))


def test_every_route_of_the_openapi_description_is_in_the_table_of_routes(service: Service) -> None:
    with urlopen(f"{service.url}/openapi.json") as response:
        paths = {path for path in json.load(response)["paths"] if "{version}" not in path}
    table = FORMATS.split("## Routes")[1].split("\n## ")[0]
    documented = set(re.findall(r"/[\w/.{}]*", table))
    assert len(paths) > 10
    assert {path.replace("{model}", "{m}") for path in paths} <= documented
