"""Writes the tables of docs/settings.md and docs/parameters.md from the program's help text.

    python -m release.reference [--binary FILE] [--check]

Each table stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. `--check` writes nothing and
exits with 1 if a table differs; the tests call it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from service import ROOT, default_binary

SETTINGS = ROOT / "docs" / "settings.md"
PARAMETERS = ROOT / "docs" / "parameters.md"
# The heading of `blip-serve caption --help` under which the generation parameters stand.
GENERATION = "Generation"


@dataclass(frozen=True)
class Option:
    """One flag of a help text."""

    heading: str
    flag: str
    help: str
    env: str
    default: str


def help_options(binary: Path, command: str) -> list[Option]:
    """Return the flags of `blip-serve COMMAND --help` in order."""
    argv = [str(binary), command, "--help"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, env={}).stdout
    options, heading = [], ""
    for block in re.split(r"\n(?=\S|\s{2,6}-)", text):
        if title := re.fullmatch(r"(\w[\w ]*):\s*", block):
            heading = title[1]
        elif flag := re.match(r"\s+(?:-\w, )?(--[\w-]+)[^\n]*\n(.*)", block, re.DOTALL):
            options.append(Option(heading, flag[1], *parse_description(flag[2])))
    return options


def parse_description(text: str) -> tuple[str, str, str]:
    """Return first paragraph, environment variable and default from the lines below a flag."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    env = re.search(r"\[env: (\w+)", text)
    default = re.search(r"\[default: ([^\]]*)\]", text)
    return paragraphs[0], env[1] if env else "", default[1] if default else ""


def settings_table(options: list[Option]) -> str:
    """Return a table for each heading, with the flags that have an environment variable."""
    lines: list[str] = []
    heading = None
    for option in options:
        if not option.env:
            continue
        if option.heading != heading:
            heading = option.heading
            lines += [
                "",
                f"## {heading}",
                "",
                "| flag | environment | default | meaning |",
                "|---|---|---|---|",
            ]
        default = f"`{option.default}`" if option.default else ""
        lines.append(f"| `{option.flag}` | `{option.env}` | {default} | {cell(option.help)} |")
    return "\n".join(lines[1:])


def parameters_table(options: list[Option]) -> str:
    """Return the table of generation parameters, with their names in requests."""
    lines = ["| name | flag of `caption` | meaning |", "|---|---|---|"]
    for option in options:
        if option.heading == GENERATION and option.flag != "--prompt":
            name = option.flag.removeprefix("--").replace("-", "_")
            lines.append(f"| `{name}` | `{option.flag}` | {cell(option.help)} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Escape the vertical bars of a help text, which would end a table cell."""
    return text.replace("|", "\\|")


def replace_table(page: str, name: str, table: str) -> str:
    """Replace the table between the marks of that name."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"{name}: the page must have one {begin} and one {end}")
    head, rest = page.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def pages(binary: Path) -> dict[Path, str]:
    """Return the pages with up-to-date tables."""
    settings = settings_table(help_options(binary, "serve"))
    parameters = parameters_table(help_options(binary, "caption"))
    return {
        SETTINGS: replace_table(SETTINGS.read_text(), "settings", settings),
        PARAMETERS: replace_table(PARAMETERS.read_text(), "parameters", parameters),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--binary", type=Path, default=default_binary(), help="the program")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    outdated = {path: page for path, page in pages(args.binary).items() if path.read_text() != page}
    for path, page in outdated.items():
        print(
            f"{path.relative_to(ROOT)}: {'differs, run `make reference`' if args.check else 'written'}"
        )
        if not args.check:
            path.write_text(page)
    return 1 if args.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
