"""What every fault is given."""

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
from reliability.load.subject import described
from service import Service


@dataclass
class Stage:
    """An empty folder, a report, and how often things are repeated."""

    folder: Path
    report: Report
    short: bool = False

    def few(self, count: int, short: int) -> int:
        """`count`, or less where time matters."""
        return short if self.short else count

    def service(self, *flags: str, name: str = "service", **how: Any) -> Service:
        """A service to be entered, with its files in a folder of this name."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return described(folder, *flags, **how)


def run_fault(fault: str, short: bool) -> Report:
    """The fault of this module, from beginning to end."""
    module = importlib.import_module(f"reliability.faults.cases.{fault}")
    report = Report(module.TITLE)
    with tempfile.TemporaryDirectory(prefix=f"fault-{fault}-") as folder:
        asyncio.run(module.run(Stage(Path(folder), report, short)))
    return report


@asynccontextmanager
async def entered(service: Service) -> AsyncIterator[Service]:
    """The service runs, and traffic goes on while it starts and stops."""
    await asyncio.to_thread(service.__enter__)
    try:
        yield service
    except BaseException as error:
        await asyncio.to_thread(service.__exit__, type(error), error, None)
        raise
    await asyncio.to_thread(service.__exit__, None, None, None)


async def set_limit(pid: int, resource: str, value: int) -> None:
    """What a running process may have of a resource, by the name that prlimit gives it."""
    process = await asyncio.create_subprocess_exec(
        "prlimit", f"--pid={pid}", f"--{resource}={value}"
    )
    if await process.wait() != 0:
        raise RuntimeError(f"prlimit could not set {resource} to {value}")
