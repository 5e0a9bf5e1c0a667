"""Proves that a full disk under the graph cache costs a warning: the service starts, answers rightly, and
keeps nothing that a later start would trip over.

The cache is a file system of some KiB, mounted where only the service sees it.
"""

from __future__ import annotations

import os
from pathlib import Path

from reliability.faults.stage import Stage, entered
from reliability.load.clients import Both
from reliability.load.test_requests import learn
from reliability.load.traffic import Traffic

TITLE = "a full disk under the graph cache"
_KIB = 64
# In a namespace of its own; who is not root gets one that says so.
_MOUNT = f'mount -t tmpfs -o size={_KIB}k none "$0" && exec "$@"'


async def run(stage: Stage) -> None:
    """Two starts: the second one finds what the first one left."""
    cache = stage.folder / "cache"
    cache.mkdir()
    for name in ("first", "second"):
        service = stage.service(
            *("--graph-cache", str(cache)), name=name, prefix=_with_small_disk(cache)
        )
        async with entered(service):
            seen = f"/proc/{service.process.pid}/root{cache}"
            size = os.statvfs(seen).f_blocks * os.statvfs(seen).f_frsize
            stage.report.check(f"{name} start: the disk is that small", size == _KIB << 10, size)
            questions = learn(service)
            async with Traffic(Both(service), questions) as traffic:
                await traffic.more(20)
            left = [path.name for path in Path(seen).rglob("*") if path.is_file()]
        traffic.judge(stage.report)
        warnings = service.log.read_text("utf-8").count("optimised graph not kept")
        stage.report.check(f"{name} start: a warning for each graph", warnings == 2, warnings)
        stage.report.check(f"{name} start: nothing half-written stays", not left, left)


def _with_small_disk(folder: Path) -> tuple[str, ...]:
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *user, "--mount", "sh", "-c", _MOUNT, str(folder))
