"""The context of a fault: a folder, a report and services to start."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.load.report import Report
from reliability.load.subject import make_service
from service import Service


@dataclass
class FaultContext:
    """An empty folder, a report, and the number of repetitions."""

    folder: Path
    report: Report
    short: bool = False

    def pick(self, count: int, short: int) -> int:
        """Return `count`, or `short` in a short run."""
        return short if self.short else count

    def make_service(self, *flags: str, name: str = "service", **how: Any) -> Service:
        """Return a service to start, with its files in a folder of this name."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return make_service(folder, *flags, **how)


def run_fault(fault: str, short: bool) -> Report:
    """Run the fault of this module and return its report."""
    module = importlib.import_module(f"reliability.faults.cases.{fault}")
    report = Report(module.TITLE)
    with tempfile.TemporaryDirectory(prefix=f"fault-{fault}-") as folder:
        asyncio.run(module.run(FaultContext(Path(folder), report, short)))
    return report


@asynccontextmanager
async def run_service(service: Service) -> AsyncIterator[Service]:
    """Start and stop a service in a thread, so that traffic continues meanwhile."""
    await asyncio.to_thread(service.__enter__)
    try:
        yield service
    except BaseException as error:
        await asyncio.to_thread(service.__exit__, type(error), error, None)
        raise
    await asyncio.to_thread(service.__exit__, None, None, None)


async def set_limit(pid: int, resource: str, value: int) -> None:
    """Set a resource limit of a running process, by the name of prlimit's option."""
    process = await asyncio.create_subprocess_exec(
        "prlimit", f"--pid={pid}", f"--{resource}={value}"
    )
    if await process.wait() != 0:
        raise RuntimeError(f"prlimit could not set {resource} to {value}")
