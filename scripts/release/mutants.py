"""Mutation tests: changes the code and counts the changes (mutants) that the Rust tests catch.

cargo-mutants runs on a copy of the sources in target/mutants, so an interrupted run does not change
the working tree. The copy shares target/ with it, so that libraries are built once. Mutants that no
test can catch are excluded in .cargo/mutants.toml, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

VERSION = "27.1.0"
ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
# Share of the viable mutants that the tests must catch.
REQUIRED = 0.9


@dataclass(frozen=True)
class Group:
    """Files whose mutants are counted together."""

    name: str
    package: str
    files: tuple[str, ...]
    # The tests of the package that run, as arguments of cargo test.
    tests: tuple[str, ...] = ("--lib",)


GROUPS = (
    Group("generation", "generation", ("crates/generation/src/**",)),
    Group(
        "image-processor",
        "image-processor",
        ("crates/image-processor/src/preprocess.rs", "crates/image-processor/src/resample/**"),
    ),
    Group("engine", "blip-serve", ("src/engine/**",)),
    Group("middleware", "blip-serve", ("src/server/middleware/**",), ("--lib", "--test", "it")),
    Group(
        "fetch",
        "blip-serve",
        ("src/fetch/policy.rs", "src/fetch/address.rs"),
        ("--lib", "--test", "it"),
    ),
)


@dataclass
class Score:
    """The number of mutants of a group by their result."""

    caught: int = 0
    missed: int = 0
    # They do not compile.
    unviable: int = 0
    # The time ended before they were tried.
    left: int = 0

    @property
    def share(self) -> float:
        """Return the share of the viable mutants that are caught."""
        viable = self.caught + self.missed
        return self.caught / viable if viable else 1.0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.caught + other.caught,
            self.missed + other.missed,
            self.unviable + other.unviable,
            self.left + other.left,
        )

    def __str__(self) -> str:
        text = f"{self.share:6.1%}  {self.caught} caught, {self.missed} missed, {self.unviable} do not compile"
        return f"{text}, {self.left} not tried" if self.left else text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m release.mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", choices=[group.name for group in GROUPS], help="a single group")
    parser.add_argument("--changed", action="store_true", help="only lines that differ from --base")
    parser.add_argument(
        "--base", help="commit (default: merge base of HEAD and origin/main, else HEAD~1)"
    )
    parser.add_argument("--seconds", type=float, help="time limit, without the build")
    options = parser.parse_args()
    groups = [group for group in GROUPS if options.only in (None, group.name)]
    WORK.mkdir(parents=True, exist_ok=True)
    filters = []
    if options.changed:
        base = options.base or default_base()
        if base is None or not is_commit(base):
            print(f"mutants: passed, there is no commit {base or 'before HEAD'} to compare with")
            return 0
        diff = WORK / "changes.diff"
        diff.write_bytes(git("diff", "--no-color", "--no-ext-diff", base, "--", "*.rs"))
        filters = [f"--in-diff={diff}"]
    install_cargo_mutants()
    copy_sources()
    groups = [(group, count_mutants(group, filters)) for group in groups]
    groups = [(group, count) for group, count in groups if count]
    if not groups:
        print(f"mutants: passed, no line of {', '.join(group.name for group in GROUPS)} changed")
        return 0
    for group, _ in groups:
        subprocess.run(
            ["cargo", "test", "--quiet", "--no-run", *test_arguments(group)],
            cwd=TREE,
            env=environment(),
            check=True,
        )
    end = time.monotonic() + options.seconds if options.seconds else None
    scores = {}
    for position, (group, count) in enumerate(groups):
        # The remaining time is divided among the remaining groups.
        share = None if end is None else max(0.0, end - time.monotonic()) / (len(groups) - position)
        scores[group.name] = run(group, count, filters, share)
    return report(scores, tolerated=1 if options.changed else 0)


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def is_commit(name: str) -> bool:
    command = ["git", "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"]
    return (
        subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )


def default_base() -> str | None:
    """Return the merge base of HEAD and origin/main; if it is HEAD or missing, HEAD's parent."""
    if is_commit("origin/main"):
        base = subprocess.run(
            ["git", "merge-base", "HEAD", "origin/main"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        head = git("rev-parse", "HEAD").decode().strip()
        if base.returncode == 0 and base.stdout.strip() != head:
            return base.stdout.strip()
    return "HEAD~1" if is_commit("HEAD~1") else None


def install_cargo_mutants() -> None:
    version = subprocess.run(
        ["cargo", "mutants", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    if version.stdout.split()[-1:] != [VERSION]:
        command = [
            "cargo",
            "install",
            "--quiet",
            "--locked",
            "--debug",
            "--version",
            VERSION,
            "cargo-mutants",
        ]
        subprocess.run(command, check=True)


def copy_sources() -> None:
    """Copy the working tree to TREE without ignored files; unchanged files keep their time stamp."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    wanted = {name for name in names if name and (ROOT / name).is_file()}
    for path in [path for path in TREE.rglob("*") if path.is_file() or path.is_symlink()]:
        if str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "RUST_BACKTRACE": "0",
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")),
    }


def mutants_command(group: Group, filters: list[str]) -> list[str]:
    files = [argument for pattern in group.files for argument in ("--file", pattern)]
    return ["cargo", "mutants", "--package", group.package, *files, *filters]


def test_arguments(group: Group) -> list[str]:
    return ["--locked", "--package", group.package, *group.tests]


def count_mutants(group: Group, filters: list[str]) -> int:
    command = [*mutants_command(group, filters), "--list", "--json", "--level=error"]
    listed = subprocess.run(command, cwd=TREE, check=True, stdout=subprocess.PIPE).stdout
    return len(json.loads(listed or b"[]"))


def run(group: Group, count: int, filters: list[str], seconds: float | None) -> Score:
    """Test the mutants of a group for at most `seconds`."""
    output = WORK / group.name
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    options = ["--in-place", f"--output={output}", "--colors=never", "--minimum-test-timeout=60"]
    command = [*mutants_command(group, filters), *options, "--", "--locked", *group.tests]
    print(f"=== {group.name}: {count} mutants", flush=True)
    with (output / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=TREE, env=environment(), stderr=stderr)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            # On SIGINT cargo-mutants restores the changed file and exits.
            process.send_signal(signal.SIGINT)
            process.wait()
            status = 0
    # 2: mutants were missed, 3: tests timed out. Otherwise the tests fail without a mutant, or
    # cargo-mutants failed.
    if status not in (0, 2, 3):
        print((output / "stderr.txt").read_text(), file=sys.stderr)
        sys.exit(f"mutants: {group.name}: cargo-mutants ended with status {status}")
    kinds = ("caught", "timeout", "missed", "unviable")
    numbers = {kind: count_lines(output / "mutants.out" / f"{kind}.txt") for kind in kinds}
    score = Score(numbers["caught"] + numbers["timeout"], numbers["missed"], numbers["unviable"])
    score.left = count - score.caught - score.missed - score.unviable
    return score


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def report(scores: dict[str, Score], tolerated: int) -> int:
    """Print the scores and return the exit status.

    It is 1 if a group is below REQUIRED and misses more than `tolerated` mutants.
    """
    total = sum(scores.values(), Score())
    for name, score in {**scores, "total": total}.items():
        print(f"{name:16} {score}")
    failed = [
        name
        for name, score in scores.items()
        if score.share < REQUIRED and score.missed > tolerated
    ]
    if failed:
        print(
            f"mutants: failed, less than {REQUIRED:.0%} caught in {', '.join(failed)}; see {WORK}/*/mutants.out/missed.txt"
        )
        return 1
    print(f"mutants: passed, {total.caught + total.missed + total.unviable} tried")
    return 0


if __name__ == "__main__":
    sys.exit(main())
