"""The process of the simulated Internet, and a proxy for its methods."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import TYPE_CHECKING

from support.ssrf import namespace

if TYPE_CHECKING:
    from support.ssrf.internet import SimulatedInternet

ETC = {
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n",
    "nsswitch.conf": "hosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n10.1.2.3 intranet.example.org\n",
}

_errors: list[OSError] = []


class InternetManager(BaseManager):
    """Manages the process."""


def start(folder: Path) -> tuple[InternetManager, SimulatedInternet]:
    """Starts a process with a simulated Internet; OSError where network namespaces are forbidden."""
    etc = folder / "etc"
    etc.mkdir()
    for name, text in ETC.items():
        (etc / name).write_text(text)
    manager = InternetManager(ctx=get_context("spawn"))
    manager.start(_enter, (etc,))
    try:
        return manager, manager.SimulatedInternet(str(folder))
    except BaseException:
        manager.shutdown()
        raise


def _enter(etc: Path) -> None:
    try:
        namespace.enter(etc)
    except OSError as error:
        # Raised by `_make_internet`: an error here would only close the pipe.
        _errors.append(error)


def _make_internet(folder: str) -> SimulatedInternet:
    if _errors:
        raise _errors[0]
    # Imported here: some of its libraries start threads, and a process with threads cannot enter the namespace.
    from support.ssrf.internet import SimulatedInternet

    return SimulatedInternet(folder)


InternetManager.register("SimulatedInternet", _make_internet)
