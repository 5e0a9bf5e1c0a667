"""What is done to a running service, briefly: each fault of `make faults` loses nothing.

Not here: `clock` and `full_disk`, which need libfaketime and a mount. `make faults` has them.
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
def test_nothing_is_lost(fault: str) -> None:
    report = run_fault(fault, short=True)
    assert report.holds, str(report)
