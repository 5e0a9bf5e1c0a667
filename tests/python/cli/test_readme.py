"""README's table of settings is what the program says of itself."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("BLIP_SERVE_BIN", ROOT / "target" / "release" / "blip-serve"))
ROW = re.compile(r"^\| `(--[a-z-]+)` \| `(BLIP_[A-Z_]+)` \| `?([^`|]*?)`? \|", re.MULTILINE)
FLAG = re.compile(
    r"^ +(--[a-z-]+).*?\[env: (BLIP_[A-Z_]+)=?\](?:\s+\[default: ([^\]]*)\])?",
    re.DOTALL | re.MULTILINE,
)


def test_the_table_of_settings_is_that_of_the_help_text() -> None:
    command = [str(BINARY), "serve", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout
    options = re.split(r"\n(?= {2,6}--)", text)
    said = {m[1]: (m[2], m[3]) for m in map(FLAG.match, options) if m}
    rows = {
        flag: (env, default) for flag, env, default in ROW.findall((ROOT / "README.md").read_text())
    }
    assert len(said) >= 15 and sum(default is not None for _, default in said.values()) >= 8
    assert {flag: env for flag, (env, _) in rows.items()} == {
        flag: env for flag, (env, _) in said.items()
    }
    for flag, (_, default) in said.items():
        if default is not None:
            assert rows[flag][1] == default, flag
