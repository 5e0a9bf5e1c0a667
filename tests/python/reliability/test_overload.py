"""Ten times the load that can be carried, briefly: each part of `make overload` holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.clients import SECONDS


@pytest.mark.parametrize("part", ["goodput", "bodies", "deadlines", "fairness"])
def test_overload(part: str) -> None:
    # A process of its own, which keeps to its own cores.
    command = [sys.executable, "-m", "reliability.overload", "--short", "--only", part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 parts: all hold" in done.stdout
