"""scripts/cuda_check.py on a machine without a GPU: the CPU against itself, and the refusal."""

from __future__ import annotations

import json
import logging

import cuda_check
import pytest
from service import ServiceError


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


def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ServiceError, match="execution provider"):
        cuda_check.main(["--images", "1"])
