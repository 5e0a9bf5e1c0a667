"""Short runs of `make overload`: every part holds under ten times the load that the service can carry."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.clients import SECONDS


@pytest.mark.parametrize("part", ["goodput", "bodies", "deadlines", "fairness"])
def test_a_part_of_the_overload_suite_holds(part: str) -> None:
    # A separate process, which is restricted to separate cores.
    command = [sys.executable, "-m", "reliability.overload", "--short", "--only", part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 parts: all hold" in done.stdout
