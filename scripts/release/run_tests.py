"""`make test`: runs the test suites in sequence and prints one line with the sum of their results.

    python -m release.run_tests COMMAND...

Each command is a `cargo test` or a pytest, whose output is printed. The last line is `N passed, M
failed`. A test that was ignored, skipped or filtered out counts as failed, and so does a suite that
ran no test or failed without a failed test.
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
# Words of the summaries that are not results of tests.
NOT_RESULTS = {"warning", "warnings", "measured"}


@dataclass(frozen=True)
class Count:
    """The number of tests that passed, and that did not."""

    passed: int = 0
    failed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed)


def run(command: list[str]) -> tuple[int, str]:
    """Run a command without input, print its output, and return exit status and output."""
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
    """Add up the summaries of a suite: all those of cargo, or the last line of pytest."""
    summaries = [f"{passed} passed; {rest}" for passed, rest in CARGO.findall(output)]
    lines = output.strip().splitlines()
    if not summaries and lines and (closing := PYTEST.match(lines[-1])):
        summaries = [closing[1]]
    total = Count()
    for number, outcome in COUNT.findall(" ".join(summaries)):
        if outcome == "passed":
            total += Count(passed=int(number))
        elif outcome not in NOT_RESULTS:
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
