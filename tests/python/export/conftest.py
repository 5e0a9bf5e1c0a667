"""Fixtures of the exporter's tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, which a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))
