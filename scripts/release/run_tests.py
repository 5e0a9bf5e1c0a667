"""`make test`: runs the suites one after the other and closes with one line for all of them.

    python -m release.run_tests COMMAND...

Each command is a `cargo test` or a pytest. Its output passes through as it comes. The last line is
`N passed, M failed`; a test that was ignored, skipped or left out counts as failed, and so does a
suite that ran no test or ended badly without naming one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (.*); finished in", re.MULTILINE)
PYTEST = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in \d")
COUNT = re.compile(r"(\d+) ([a-z]+)")
COLOUR = re.compile(r"\x1b\[[\d;]*m")
# Neither passed nor not passed.
BESIDE = {"warning", "warnings", "measured"}


@dataclass(frozen=True)
class Count:
    """How many tests passed, and how many did not."""

    passed: int = 0
    failed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed)


def run(command: list[str]) -> tuple[int, str]:
    """Exit status and output of a command that has no input; the output is shown as it comes."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    output = b""
    while chunk := process.stdout.read1():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        output += chunk
    return process.wait(), COLOUR.sub("", output.decode(errors="replace"))


def count(status: int, output: str) -> Count:
    """What the closing lines of a suite say: each of cargo's, or the last one, pytest's."""
    summaries = [f"{passed} passed; {rest}" for passed, rest in CARGO.findall(output)]
    lines = output.strip().splitlines()
    if not summaries and lines and (closing := PYTEST.match(lines[-1])):
        summaries = [closing[1]]
    total = Count()
    for number, outcome in COUNT.findall(" ".join(summaries)):
        if outcome == "passed":
            total += Count(passed=int(number))
        elif outcome not in BESIDE:
            total += Count(failed=int(number))
    if total.failed == 0 and (status != 0 or total.passed == 0):
        total += Count(failed=1)
    return total


def main() -> int:
    total = Count()
    for command in sys.argv[1:]:
        print(command, flush=True)
        total += count(*run(shlex.split(command)))
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
