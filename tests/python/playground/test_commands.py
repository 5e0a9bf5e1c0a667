"""The commands that the playground offers give the captions of the page, in a real shell."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from playwright.sync_api import Browser

from service import Service
from support.clients import IMAGES, MODEL, PICTURE, PROMPT, SECONDS, caption
from support.playground import Playground
from support.reflected import ReflectedClient

ODD_NAME = """it's "a" 50%; x,y & $HOME `id` \\ ö.jpg"""
ODD_PROMPT = """@home 'quoted' "50%" <b> $HOME `id` \\ {a}"""
NAMES = ["curl", "curl, streaming", "grpcurl"]
PARAMETERS = {"max_new_tokens": 5, "repetition_penalty": 1.5, "seed": 2**53 - 1}


# Replaces grpcurl in the shell: prints its arguments and its standard input.
GRPCURL = """grpcurl() { printf '%s\\0' "$@"; cat; }\n"""


def run_command(folder: Path, name: str, command: str, **environment: str) -> list[str]:
    """Returns the captions that a command prints in a real shell; of a stream, those of the last event."""
    done = subprocess.run(
        ["bash", "-euc", GRPCURL + command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    if name == "grpcurl":
        *arguments, data = done.stdout.split("\0")
        answer = call_by_reflection(arguments, data)
    else:
        answer = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("data: "))
    if name == "curl, streaming":
        return [answer["caption"]]
    answer = answer.get("response", answer)
    assert "captions" in answer, answer
    return [each["text"] for each in answer["captions"]]


def call_by_reflection(arguments: list[str], data: str) -> dict[str, Any]:
    """Returns the last response to a grpcurl command, sent by a client that uses reflection as grpcurl does."""
    parser = argparse.ArgumentParser("grpcurl")
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", required=True)
    parser.add_argument("address")
    parser.add_argument("method")
    options = parser.parse_args(arguments)
    headers = [(name.lower(), value) for name, value in (h.split(": ", 1) for h in options.H)]
    no_proxy = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(options.address, options=no_proxy) as channel:
        client = ReflectedClient(channel, "v1alpha", headers)
        service, name = options.method.split("/")
        method = client.pool.FindServiceByName(service).methods_by_name[name]
        request = client.message(method.input_type.full_name)
        json_format.Parse(data if options.d == "@" else options.d, request)
        return json_format.MessageToDict(client.call(options.method, request)[-1])


@pytest.mark.parametrize("prompt", [None, PROMPT, ODD_PROMPT])
def test_the_commands_for_a_file_give_the_same_captions(
    playground: Playground, tmp_path: Path, prompt: str | None
) -> None:
    name = ODD_NAME if prompt == ODD_PROMPT else PICTURE
    shutil.copy(IMAGES / PICTURE, tmp_path / name)
    playground.add(tmp_path / name)
    (card,) = playground.caption(prompt)
    assert card["state"] == "done", card
    commands = playground.commands()
    assert list(commands) == NAMES
    for kind, command in commands.items():
        assert run_command(tmp_path, kind, command) == card["captions"], command


def test_the_commands_for_a_url_give_the_same_captions(
    playground: Playground, tmp_path: Path, images_url: str
) -> None:
    playground.add_url(f"{images_url}/{PICTURE}?a='b'&c")
    playground.parameter(**PARAMETERS)
    (card,) = playground.caption(ODD_PROMPT)
    commands = playground.commands()
    assert list(commands) == NAMES
    for kind, command in commands.items():
        assert run_command(tmp_path, kind, command) == card["captions"], command


@pytest.mark.parametrize("from_file", [True, False])
def test_every_parameter_is_in_the_commands(
    playground: Playground, tmp_path: Path, images_url: str, from_file: bool
) -> None:
    shutil.copy(IMAGES / PICTURE, tmp_path / PICTURE)
    playground.add(tmp_path / PICTURE) if from_file else playground.add_url(
        f"{images_url}/{PICTURE}"
    )
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
        assert run_command(tmp_path, kind, command) == card["captions"], command


def test_commands_follow_the_form_before_the_first_run(
    playground: Playground, tmp_path: Path
) -> None:
    shutil.copy(IMAGES / PICTURE, tmp_path / PICTURE)
    playground.add(tmp_path / PICTURE)
    playground.run("document.querySelector('.commands').open = true")
    playground.set("#prompt", PROMPT)
    command = playground.commands()["curl"]
    assert f"model={MODEL}" in command
    assert run_command(tmp_path, "curl", command) == [caption(PICTURE)]


def test_the_commands_read_the_key_from_the_environment(browser: Browser, tmp_path: Path) -> None:
    shutil.copy(IMAGES / PICTURE, tmp_path / PICTURE)
    with Service(log=tmp_path / "log", flags=("--api-keys=alpha",)) as guarded:
        playground = Playground(browser, guarded.url, awaited="waiting")
        playground.set("#key", "alpha")
        playground.wait("document.querySelector('#state').dataset.state === 'ready'")
        playground.add(tmp_path / PICTURE)
        (card,) = playground.caption()
        commands = playground.commands()
        assert len(commands) > 1
        for kind, command in commands.items():
            assert run_command(tmp_path, kind, command, API_KEY="alpha") == card["captions"], (
                command
            )
