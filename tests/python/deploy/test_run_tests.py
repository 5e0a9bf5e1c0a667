"""`make test` ends with the sum of both suites, in which every test that did not pass is counted."""

import subprocess
import sys

import pytest

CARGO = "test result: ok. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in 0.01s"


def closing_line(*suites: tuple[int, str]) -> tuple[int, str]:
    """Returns exit status and last line for suites with these exit statuses and outputs."""
    commands = []
    for index, (status, output) in enumerate(suites):
        program = f"import sys; assert not sys.stdin.read(); print({output!r}); sys.exit({status})"
        commands.append(f'{sys.executable} -c "{program}" {index}')
    command = [sys.executable, "-m", "release.run_tests", *commands]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    for _, output in suites:
        assert output in done.stdout
    return done.returncode, done.stdout.splitlines()[-1]


def test_the_passed_tests_of_both_suites_are_added() -> None:
    cargo = "\n".join([CARGO.format(5, 0, 0, 0), "   Doc-tests", CARGO.format(2, 0, 0, 0)])
    suites = (0, cargo), (0, "....\n4 passed, 3 warnings in 0.12s")
    assert closing_line(*suites) == (0, "11 passed, 0 failed")


@pytest.mark.parametrize(
    ("status", "output", "counted"),
    [
        (101, CARGO.format(5, 2, 0, 0), "5 passed, 2 failed"),
        (0, CARGO.format(5, 0, 1, 2), "5 passed, 3 failed"),
        (1, "F.\n1 failed, 1 passed, 2 skipped, 1 error in 61.00s (0:01:01)", "1 passed, 4 failed"),
        (0, "=== 1 passed, 1 xfailed, 1 xpassed, 1 deselected in 1.00s ===", "1 passed, 3 failed"),
        (5, "no tests ran in 0.01s", "0 passed, 1 failed"),
        (101, "error: could not compile", "0 passed, 1 failed"),
        (-11, CARGO.format(5, 0, 0, 0), "5 passed, 1 failed"),
        (0, CARGO.format(0, 0, 0, 0), "0 passed, 1 failed"),
        (0, "", "0 passed, 1 failed"),
    ],
)
def test_every_other_outcome_counts_as_failed(status: int, output: str, counted: str) -> None:
    assert closing_line((status, output)) == (1, counted)


def test_the_second_suite_runs_after_a_failed_one() -> None:
    suites = (101, "error: could not compile"), (0, "3 passed in 0.1s")
    assert closing_line(*suites) == (1, "3 passed, 1 failed")
