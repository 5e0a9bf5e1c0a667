"""Builds the fuzz targets of `fuzz/` and runs two of them in parallel.

    PYTHONPATH=scripts python3 -m reliability.fuzzing --targets image,url --runs 1000000 --seconds 1200
    PYTHONPATH=scripts python3 -m reliability.fuzzing --quick --seconds 60
    PYTHONPATH=scripts python3 -m reliability.fuzzing --minimise

libFuzzer runs with AddressSanitizer in all libraries, including those in C. It does not need a
nightly compiler: the stable one contains the sanitizer and accepts its flag with RUSTC_BOOTSTRAP.
That build takes ten minutes on two cores. `--quick` uses the libraries built by `make build` and
instruments only the service, without the sanitizer, because it is safe Rust: this finds panics and
failed assertions.

New inputs are kept in fuzz/found; `--minimise` merges those that add coverage into fuzz/corpus,
which is committed.

The exit status is 1 if a target crashed. Its input is in fuzz/artifacts; run the target's binary
with that file as its argument to reproduce the crash.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FUZZ = ROOT / "fuzz"
BUILD_SECONDS = 1800
MERGE_SECONDS = 600

COVERAGE = [
    "-Cpasses=sancov-module",
    *(
        f"-Cllvm-args=-sanitizer-coverage-{flag}"
        for flag in ("level=3", "inline-8bit-counters", "pc-table", "trace-compares")
    ),
    # Keeps the branches of conditions that LLVM would fold into one.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
]
CFLAGS = ["-fsanitize=address", "-fsanitize-coverage=trace-pc", "-fno-omit-frame-pointer"]
ASAN_OPTIONS = "detect_odr_violation=0:quarantine_size_mb=32"

EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
PEAK = re.compile(r"^stat::peak_rss_mb:\s*(\d+)", re.MULTILINE)
PROGRESS = re.compile(r"cov: (\d+) ft: \d+ corp: (\d+)/")


@dataclass(frozen=True)
class Target:
    """A fuzz target with its libFuzzer options."""

    # Bytes of an input.
    max_len: int
    # The name of a file in fuzz/dictionaries.
    dictionary: str | None = None


TARGETS = {
    "image": Target(8192, "image"),
    "oip_json": Target(4096, "json"),
    "oip_binary": Target(4096, "json"),
    "grpc_raw": Target(4096),
    "caption_json": Target(4096, "json"),
    "url": Target(4096, "url"),
    "bundle": Target(4096, "bundle"),
    "prompt": Target(512),
    "beam_search": Target(512),
}


@dataclass(frozen=True)
class Outcome:
    """The result of a run of a target."""

    name: str
    seconds: float
    status: int
    output: str

    @property
    def row(self) -> list[str]:
        """Return a row of the table."""
        executions = int(_last(EXECUTIONS, self.output, "0"))
        coverage, corpus = (PROGRESS.findall(self.output) or [("0", "0")])[-1]
        rate = executions / self.seconds if self.seconds else 0
        cells = [f"{executions:,}", f"{self.seconds:.0f}", f"{rate:,.0f}", coverage, corpus]
        crashes = "1" if self.status else "0"
        return [self.name, *cells, _last(PEAK, self.output, "-"), crashes]


HEADER = ["target", "executions", "seconds", "exec/s", "edges", "corpus", "peak MB", "crashes"]


def _last(pattern: re.Pattern[str], text: str, default: str) -> str:
    return (pattern.findall(text) or [default])[-1]


def host_triple() -> str:
    """Return this machine's target triple.

    With an explicit target, cargo does not apply RUSTFLAGS to build scripts.
    """
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))


def copy_lock_file() -> None:
    """Use the service's versions of its libraries; cargo adds those that only fuzzing needs."""
    ours, theirs = ROOT / "Cargo.lock", FUZZ / "Cargo.lock"
    if not theirs.exists() or theirs.stat().st_mtime < ours.stat().st_mtime:
        shutil.copyfile(ours, theirs)


def build(names: list[str], quick: bool) -> Path:
    """Build the targets and return the folder of their binaries."""
    if not (shutil.which("c++") or os.environ.get("CXX")):
        sys.exit("error: libFuzzer needs a C++ compiler (Debian: apt-get install g++)")
    copy_lock_file()
    command = ["cargo", "build", "--quiet", f"--manifest-path={FUZZ / 'Cargo.toml'}"]
    command += [f"--bin={name}" for name in names]
    if quick:
        folder = Path("release")
        command += ["--release", f"--config=build.build-dir='{ROOT / 'target'}'"]
        flags = {"RUSTC_WRAPPER": str(FUZZ / "rustc.sh"), "FUZZ_RUSTFLAGS": " ".join(COVERAGE)}
    else:
        triple = host_triple()
        folder = Path(triple, "fuzz")
        command += ["--profile=fuzz", f"--target={triple}"]
        flags = {
            "RUSTC_BOOTSTRAP": "1",
            "RUSTFLAGS": " ".join(["-Zsanitizer=address", *COVERAGE]),
            f"CFLAGS_{triple.replace('-', '_')}": " ".join(CFLAGS),
        }
    start = time.monotonic()
    built = subprocess.run(command, cwd=ROOT, env=os.environ | flags, timeout=BUILD_SECONDS)
    if built.returncode:
        sys.exit("error: the build of the fuzz targets failed")
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)
    return FUZZ / "target" / folder


def fuzz(binaries: Path, name: str, runs: int, seconds: int) -> Outcome:
    """Run one target until it reaches `runs` or `seconds`, or crashes."""
    target, artifacts = TARGETS[name], FUZZ / "artifacts" / name
    found, corpus = FUZZ / "found" / name, FUZZ / "corpus" / name
    for folder in (artifacts, found):
        folder.mkdir(parents=True, exist_ok=True)
    command = [str(binaries / name), str(found), str(corpus), f"-runs={runs}"]
    command += [f"-max_total_time={seconds}", f"-max_len={target.max_len}"]
    command += [f"-artifact_prefix={artifacts}/", "-print_final_stats=1"]
    # The limits of every input; the target `image` decodes at most 65,536 pixels.
    command += ["-timeout=20", "-rss_limit_mb=1536", "-malloc_limit_mb=64"]
    if target.dictionary:
        command.append(f"-dict={FUZZ / 'dictionaries' / target.dictionary}.dict")
    start = time.monotonic()
    status, output = execute(command, seconds + 120)
    (artifacts / "log").write_text(output)
    return Outcome(name, time.monotonic() - start, status, output)


def minimise(binaries: Path, name: str) -> Outcome:
    """Replace the corpus by the smallest set of inputs with the same coverage."""
    corpus, merged = FUZZ / "corpus" / name, FUZZ / "found" / f"{name}.merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    folders = [merged, corpus, FUZZ / "found" / name]
    command = [str(binaries / name), *(str(folder) for folder in folders if folder.exists())]
    command += ["-merge=1", f"-max_len={TARGETS[name].max_len}"]
    start = time.monotonic()
    status, output = execute(command, MERGE_SECONDS)
    if status == 0:
        shutil.rmtree(corpus)
        shutil.move(merged, corpus)
    return Outcome(name, time.monotonic() - start, status, output)


def execute(command: list[str], seconds: float) -> tuple[int, str]:
    """Return exit status and output of a target, which is killed after `seconds`."""
    environment = os.environ | {"ASAN_OPTIONS": ASAN_OPTIONS, "RUST_BACKTRACE": "1"}
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as expired:
        return 124, (expired.stdout or b"").decode(errors="replace") + "\nhung\n"
    return process.returncode, process.stdout.decode(errors="replace")


def table(rows: list[list[str]]) -> str:
    """Align the columns of a text table."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default=",".join(TARGETS), help="separated by commas")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    parser.add_argument("--seconds", type=int, default=1200, help="time limit of each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets that run in parallel")
    parser.add_argument("--quick", action="store_true", help="instrument the service alone")
    parser.add_argument("--minimise", action="store_true", help="merge fuzz/found into fuzz/corpus")
    parsed = parser.parse_args()
    parsed.targets = parsed.targets.split(",")
    unknown = [name for name in parsed.targets if name not in TARGETS]
    if unknown:
        parser.error(f"--targets: unknown {', '.join(unknown)}, must be of {', '.join(TARGETS)}")
    return parsed


def main() -> int:
    arguments = parse_arguments()
    binaries = build(arguments.targets, arguments.quick)

    def run(name: str) -> Outcome:
        if arguments.minimise:
            return minimise(binaries, name)
        return fuzz(binaries, name, arguments.runs, arguments.seconds)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(run, arguments.targets))
    failed = [outcome for outcome in outcomes if outcome.status]
    for outcome in failed:
        print(f"=== {outcome.name} failed ({outcome.status})\n{outcome.output[-6000:]}")
    print(table([HEADER, *(outcome.row for outcome in outcomes)]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
