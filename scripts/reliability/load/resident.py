"""Samples the resident memory of a process."""

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


def resident_bytes(pid: int) -> int:
    """Return the bytes of the process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE


def status_bytes(pid: int, name: str) -> int:
    """Return a size of /proc/<pid>/status, such as VmHWM or VmData, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class MemorySampler:
    """Samples every `every` seconds: `async with MemorySampler(pid) as memory`."""

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self._pid, self._every = pid, every
        self.samples: list[tuple[float, int]] = []
        """Time by `time.perf_counter`, and bytes."""

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
        """Return the largest sample in bytes."""
        return max(size for _, size in self.samples)

    async def _sample(self) -> None:
        while True:
            self._take()
            await asyncio.sleep(self._every)

    def _take(self) -> None:
        # The process may have ended; other checks report that.
        with suppress(OSError):
            self.samples.append((time.perf_counter(), resident_bytes(self._pid)))
