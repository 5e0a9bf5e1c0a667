"""release.cuda_check on a machine without a GPU: the CPU compared with itself, and the error."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

import pytest

from release import cuda_check
from service import ROOT, ServiceError, default_binary


def test_the_cpu_agrees_with_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert cuda_check.main(["--provider", "cpu", "--images", "3"]) == 0
    figures = {}
    for record in caplog.records:
        if record.name == "cuda_check":
            figures |= json.loads(record.getMessage())
    assert (figures["captions"], figures["agreement"]) == (12, 1.0)
    assert figures["nodes"]["CPUExecutionProvider"] > 100
    assert set(figures["nodes"]) == {"CPUExecutionProvider"}


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ServiceError, match="execution provider"):
        cuda_check.main(["--images", "1"])


def test_a_folder_without_the_cuda_libraries_is_reported_in_one_line(tmp_path: Path) -> None:
    command = [default_binary(), "check", "--cuda-libraries", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "--cuda-libraries: Failed to preload `libcudart.so.13`" in line
