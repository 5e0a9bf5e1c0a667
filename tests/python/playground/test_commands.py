"""The commands that the playground offers do what the page did, in a real shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import Service
from support.clients import IMAGES, MODEL, PICTURE, PROMPT, SECONDS, caption
from support.playground.browser import Browser
from support.playground.page import Playground

ODD_NAME = """it's "a" 50%; x,y & $HOME `id` \\ ö.jpg"""
ODD_PROMPT = """@home 'quoted' "50%" <b> $HOME `id` \\ {a}"""
NAMES = ["curl", "curl, reading along", "grpcurl"]
PARAMETERS = {"max_new_tokens": 5, "repetition_penalty": 1.5, "seed": 2**53 - 1}


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A folder to run commands in; its grpcurl asks the server's reflection, as the real one."""
    program = tmp_path / "bin" / "grpcurl"
    program.parent.mkdir()
    script = Path(__file__).with_name("grpcurl.py")
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
    program.chmod(0o755)
    return tmp_path


def texts(shell: Path, name: str, command: str, **environment: str) -> list[str]:
    """The captions that a command prints; of a stream, its last answer's."""
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=shell,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"PATH": f"{shell}/bin:{os.environ['PATH']}"} | environment,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("data: "))
    if name == "curl, reading along":
        return [answer["caption"]]
    answer = answer.get("response", answer)
    assert "captions" in answer, done.stdout
    return [each["text"] for each in answer["captions"]]


@pytest.mark.parametrize("prompt", [None, PROMPT, ODD_PROMPT])
def test_the_commands_of_a_file(playground: Playground, shell: Path, prompt: str | None) -> None:
    name = ODD_NAME if prompt == ODD_PROMPT else PICTURE
    shutil.copy(IMAGES / PICTURE, shell / name)
    playground.add(shell / name)
    (card,) = playground.caption(prompt)
    assert card["state"] == "done", card
    commands = playground.commands()
    assert list(commands) == NAMES
    for kind, command in commands.items():
        assert texts(shell, kind, command) == card["captions"], command


def test_the_commands_of_a_url(playground: Playground, shell: Path, images_url: str) -> None:
    playground.add_url(f"{images_url}/{PICTURE}?a='b'&c")
    playground.parameter(**PARAMETERS)
    (card,) = playground.caption(ODD_PROMPT)
    commands = playground.commands()
    assert list(commands) == NAMES
    for kind, command in commands.items():
        assert texts(shell, kind, command) == card["captions"], command


@pytest.mark.parametrize("of_file", [True, False])
def test_every_parameter_is_in_the_commands(
    playground: Playground, shell: Path, images_url: str, of_file: bool
) -> None:
    shutil.copy(IMAGES / PICTURE, shell / PICTURE)
    playground.add(shell / PICTURE) if of_file else playground.add_url(f"{images_url}/{PICTURE}")
    given: dict[str, Any] = {
        **PARAMETERS,
        "min_new_tokens": 2,
        "min_length": 3,
        "num_beams": 3,
        "num_return_sequences": 2,
        "length_penalty": -0.5,
        "early_stopping": '"never"',
        "no_repeat_ngram_size": 2,
        "bad_words": "cat\nit's",
        "do_sample": "true",
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.95,
    }
    playground.parameter(**given)
    (card,) = playground.caption()
    commands = playground.commands()
    assert list(commands) == ["curl", "grpcurl"] and len(card["captions"]) == 2
    assert playground.text("#parameters-count") == f"{len(given)} set"
    for kind, command in commands.items():
        assert all(name in command for name in given), command
        assert texts(shell, kind, command) == card["captions"], command


def test_before_the_first_run_they_follow_the_form(playground: Playground, shell: Path) -> None:
    shutil.copy(IMAGES / PICTURE, shell / PICTURE)
    playground.add(shell / PICTURE)
    playground.page.run("document.querySelector('.commands').open = true")
    playground.set("#prompt", PROMPT)
    command = playground.commands()["curl"]
    assert f"model={MODEL}" in command
    assert texts(shell, "curl", command) == [caption(PICTURE)]


def test_the_key_comes_from_the_environment(browser: Browser, shell: Path) -> None:
    shutil.copy(IMAGES / PICTURE, shell / PICTURE)
    with Service(log=shell / "log", flags=("--api-keys=alpha",)) as guarded:
        playground = Playground(browser, guarded.url, awaited="waiting")
        playground.set("#key", "alpha")
        playground.page.wait("document.querySelector('#state').dataset.state === 'ready'")
        playground.add(shell / PICTURE)
        (card,) = playground.caption()
        for kind, command in playground.commands().items():
            assert texts(shell, kind, command, API_KEY="alpha") == card["captions"], command
