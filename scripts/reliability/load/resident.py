"""The resident memory of a process, sampled."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def resident(pid: int) -> int:
    """Bytes that are in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE


def status_bytes(pid: int, name: str) -> int:
    """A size of /proc/<pid>/status, such as VmHWM or VmData, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class Sampled:
    """`async with Sampled(pid) as memory`: looks all the time."""

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self._pid, self._every = pid, every
        self.samples: list[tuple[float, int]] = []
        """When, by `time.perf_counter`, and how many bytes."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._take()

    @property
    def peak(self) -> int:
        """The most that was seen."""
        return max(size for _, size in self.samples)

    async def _sample(self) -> None:
        while True:
            self._take()
            await asyncio.sleep(self._every)

    def _take(self) -> None:
        # The process may be gone: that is for others to find out.
        with suppress(OSError):
            self.samples.append((time.perf_counter(), resident(self._pid)))
