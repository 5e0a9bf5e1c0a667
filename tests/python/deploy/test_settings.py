"""The chart's settings are those of `blip-serve serve`."""

from __future__ import annotations

import json
import re
import subprocess

from release.manifests import CHART
from service import default_binary

# Variables that the chart sets from values with other names.
OTHER_VALUES = {
    "BLIP_ADMIN_LISTEN",
    "BLIP_API_KEYS",
    "BLIP_API_KEYS_FILE",
    "BLIP_GRAPH_CACHE",
    "BLIP_LISTEN",
    "BLIP_MODELS",
    "BLIP_TLS_CERT",
    "BLIP_TLS_CLIENT_CA",
    "BLIP_TLS_KEY",
}


def chart_settings() -> set[str]:
    """Returns the environment variables of the chart's settings."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    names = schema["properties"]["settings"]["properties"]
    return {"BLIP_" + name.upper().replace("-", "_") for name in names}


def program_settings() -> set[str]:
    """Returns the environment variables of the program's settings."""
    command = [str(default_binary()), "serve", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout
    return set(re.findall(r"\[env: (BLIP_[A-Z_]+)", text))


def test_every_setting_of_the_program_can_be_set_and_no_other() -> None:
    assert chart_settings() == program_settings() - OTHER_VALUES
