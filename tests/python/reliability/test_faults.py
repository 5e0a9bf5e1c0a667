"""Short runs of the faults of `make faults`: a running service loses no request.

`clock` and `full_disk` need libfaketime and a mount, and run in `make faults` only.
"""

from __future__ import annotations

import pytest

from reliability.faults.context import run_fault

FAULTS = [
    "kill",
    "vanish",
    "stalled_host",
    "replaced_model",
    "descriptors",
    "memory",
    "stopped",
    "rolling",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_loses_no_request(fault: str) -> None:
    report = run_fault(fault, short=True)
    assert report.holds, str(report)
