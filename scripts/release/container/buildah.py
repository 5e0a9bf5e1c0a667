"""Runs buildah with its storage in build/image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "build" / "image"
# A race in buildah 1.28 sometimes fails the start of a step; completed layers are kept.
RACE = "sealing memfd copy: Device or resource busy"
ATTEMPTS = 5


class Buildah:
    """Calls buildah; a failure ends the program with buildah's error."""

    def __init__(self) -> None:
        self._command = [
            "buildah",
            f"--root={WORK / 'storage'}",
            f"--runroot={WORK / 'run'}",
            "--storage-driver=overlay",
        ]
        # Also holds the cache mounts of the Dockerfile.
        temporary = WORK / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        self._environment = os.environ | {"TMPDIR": str(temporary)}

    def __call__(self, *arguments: str) -> str:
        """Run a command and return its output."""
        command = [*self._command, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=self._environment
        )
        if done.returncode != 0:
            sys.exit(f"error: buildah {arguments[0]} ({done.returncode}): {done.stderr}")
        return done.stdout.strip()

    def build(self, *arguments: str) -> None:
        """Build, and print the output."""
        command = [*self._command, "build", *arguments]
        for _ in range(ATTEMPTS):
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
            )
            is_race = False
            for line in process.stdout:
                print(line, end="", flush=True)
                is_race |= RACE in line
            if process.wait() == 0:
                return
            if not is_race:
                break
        sys.exit(f"error: buildah build failed ({process.returncode})")

    def close(self) -> None:
        """Unmount the storage, which buildah leaves mounted, so that the folder can be removed."""
        mounted = ["umount", str(WORK / "storage" / "overlay")]
        while subprocess.run(mounted, capture_output=True).returncode == 0:
            pass

    def has(self, image: str) -> bool:
        """Whether the image exists."""
        return bool(self("images", "--quiet", "--filter", f"reference={image}"))

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Create a working container and remove it at the end."""
        container = self("from", "--pull-never", image).splitlines()[-1]
        try:
            yield container
        finally:
            self("rm", container)

    def mount(self, container: str) -> Path:
        """Mount a container and return its root folder."""
        return Path(self("mount", container))

    def config(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image."""
        return json.loads(self("inspect", "--type=image", image))["Docker"]["config"]
