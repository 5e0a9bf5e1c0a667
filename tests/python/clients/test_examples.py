"""Every program under examples/ runs against the service and prints the captions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service import Service
from support.clients import IMAGES, PICTURES, PROMPT, ROOT, SECONDS, caption

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.name for path in (EXAMPLES / "python").glob("*.py"))


def run(*command: object) -> str:
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_python_client_prints_every_caption(service: Service, program: str) -> None:
    pictures = [IMAGES / name for name in PICTURES]
    options = ["--address", service.address, "--prompt", PROMPT]
    output = run(sys.executable, EXAMPLES / "python" / program, *options, *pictures)
    for name in PICTURES:
        assert f"{name}: {caption(name)}" in output, output


def test_the_curl_example_prints_the_caption_four_times(service: Service) -> None:
    picture = IMAGES / PICTURES[0]
    options = ["--url", service.url, "--prompt", PROMPT]
    *whole, events = run(EXAMPLES / "curl.sh", *options, picture).split("\n# ")
    assert [each.count(caption()) for each in whole] == [1, 1, 1]
    assert f'"caption":"{caption()}"' in events.replace('": "', '":"'), events


def test_the_readme_of_the_examples_names_every_program() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert PROGRAMS
    for program in ("curl.sh", *(f"python/{name}" for name in PROGRAMS)):
        assert f"examples/{program}" in text
