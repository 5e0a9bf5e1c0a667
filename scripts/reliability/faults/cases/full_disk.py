"""Proves that a full disk under the graph cache only causes a warning.

The service starts, answers correctly and leaves no partial file for a later start. The cache is a
file system of 64 KiB, mounted in a namespace of the service.
"""

from __future__ import annotations

import os
from pathlib import Path

from reliability.faults.context import FaultContext, run_service
from reliability.load.clients import BothTransports
from reliability.load.test_requests import prepare_requests
from reliability.load.traffic import Traffic

TITLE = "a full disk under the graph cache"
_KIB = 64
# Run in a mount namespace; without root in a user namespace, too.
_MOUNT = f'mount -t tmpfs -o size={_KIB}k none "$0" && exec "$@"'


async def run(context: FaultContext) -> None:
    """Start twice: the second start finds the files that the first one left."""
    cache = context.folder / "cache"
    cache.mkdir()
    for name in ("first", "second"):
        service = context.make_service(
            *("--graph-cache", str(cache)), name=name, prefix=_with_small_disk(cache)
        )
        async with run_service(service):
            seen = f"/proc/{service.process.pid}/root{cache}"
            size = os.statvfs(seen).f_blocks * os.statvfs(seen).f_frsize
            context.report.check(f"{name} start: the disk has {_KIB} KiB", size == _KIB << 10, size)
            requests = prepare_requests(service)
            async with Traffic(BothTransports(service), requests) as traffic:
                await traffic.wait_for_answers(20)
            left = [path.name for path in Path(seen).rglob("*") if path.is_file()]
        traffic.check(context.report)
        warnings = service.log.read_text("utf-8").count("optimised graph not kept")
        context.report.check(f"{name} start: a warning for each graph", warnings == 2, warnings)
        context.report.check(f"{name} start: no partial file is left", not left, left)


def _with_small_disk(folder: Path) -> tuple[str, ...]:
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *user, "--mount", "sh", "-c", _MOUNT, str(folder))
