"""Helpers of the command line's tests: runs of the real binary, and images in named pipes.

The program works on a pipe from when it opens it until the test has written an image into it, so a
test needs no clock to act in the middle of a run.
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
    """Returns the command line with these arguments; bytes stay bytes."""
    words = [each if isinstance(each, bytes) else str(each) for each in arguments]
    return [str(default_binary()), *words]


def run(
    *arguments: object, stdin: bytes = b"", cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, input=stdin, capture_output=True, timeout=SECONDS
    )
    assert b"panicked" not in done.stderr, done.stderr
    return done


def lines(*arguments: object, **options: Any) -> list[dict[str, Any]]:
    """Returns the JSON lines of a `caption` command that must succeed."""
    done = run("caption", "--json", *arguments, **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command, which is killed when the block ends."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Unbuffered: `select` does not see what a buffer has read ahead.
    with subprocess.Popen(command(*arguments), cwd=ROOT, bufsize=0, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


class PipedImage:
    """An image that the program reads from a named pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def is_opened(self) -> bool:
        """Whether the program is reading the pipe. If so, this call ends the image."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
            return False
        return True

    def open(self) -> BinaryIO:
        """Waits until the program reads the pipe, and returns its writing end."""
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(self.path.open, "wb")
            try:
                return opening.result(SECONDS)
            except TimeoutError:
                # With a reader the thread can end.
                os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
                raise

    def write(self, picture: bytes) -> None:
        """Writes an image once the program reads the pipe."""
        with self.open() as pipe:
            pipe.write(picture)


def await_line(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Reads the program's stderr until a line contains this text."""
    while select.select([process.stderr], [], [], SECONDS)[0]:
        line = process.stderr.readline()
        if text in line:
            return
        assert line, f"ended without {text!r}"
    raise AssertionError(f"no {text!r} in time")
