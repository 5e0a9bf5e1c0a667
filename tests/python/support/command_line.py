"""What the tests of the command line share: runs of the real binary, and pictures that wait.

A picture that waits is a named pipe: the program is at work on it from when it opens the pipe until
the test has written a picture into it, so a test needs no clock to catch a run in the middle.
"""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from service import default_binary
from support.clients import IMAGES, ROOT, SECONDS

PICTURES = sorted(IMAGES.iterdir())
PNG, JPEG = IMAGES / "tree-cat.png", IMAGES / "cats.jpg"


def command(*arguments: object) -> list[Any]:
    """The program with these arguments; bytes stay bytes."""
    words = [each if isinstance(each, bytes) else str(each) for each in arguments]
    return [str(default_binary()), *words]


def run(
    *arguments: object, stdin: bytes = b"", cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """A command to its end."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, input=stdin, capture_output=True, timeout=SECONDS
    )
    assert b"panicked" not in done.stderr, done.stderr
    return done


def lines(*arguments: object, **how: Any) -> list[dict[str, Any]]:
    """The JSON lines of a `caption` that must succeed."""
    done = run("caption", "--json", *arguments, **how)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A command on its way; killed if the test leaves it behind."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Unbuffered: what was read ahead would be hidden from `select`.
    with subprocess.Popen(command(*arguments), cwd=ROOT, bufsize=0, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


class Waiting:
    """A picture that the program has to wait for."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def is_opened(self) -> bool:
        """Whether the program is reading it. Asked of one that reads, this ends its picture."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
            return False
        return True

    def opened(self) -> BinaryIO:
        """Wait until the program reads it; where to write the picture."""
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(self.path.open, "wb")
            try:
                return opening.result(SECONDS)
            except TimeoutError:
                # A reader lets the thread go.
                os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
                raise

    def write(self, picture: bytes) -> None:
        """Give it the picture, once the program reads it."""
        with self.opened() as pipe:
            pipe.write(picture)


def await_line(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Read the program's stderr until a line has this text."""
    while select.select([process.stderr], [], [], SECONDS)[0]:
        line = process.stderr.readline()
        if text in line:
            return
        assert line, f"ended without {text!r}"
    raise AssertionError(f"no {text!r} in time")
