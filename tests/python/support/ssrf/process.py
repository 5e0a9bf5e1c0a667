"""The process that an Internet of the tests lives in, and calls into it."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import TYPE_CHECKING

from support.ssrf import namespace

if TYPE_CHECKING:
    from support.ssrf.internet import Internet

ETC = {
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n",
    "nsswitch.conf": "hosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n10.1.2.3 intranet.example.org\n",
}

_refusals: list[OSError] = []


class Manager(BaseManager):
    """The process."""


def start(folder: Path) -> tuple[Manager, Internet]:
    """A new process with an Internet; OSError where networks of one's own are forbidden."""
    etc = folder / "etc"
    etc.mkdir()
    for name, text in ETC.items():
        (etc / name).write_text(text)
    manager = Manager(ctx=get_context("spawn"))
    manager.start(_enter, (etc,))
    try:
        return manager, manager.Internet(str(folder))
    except BaseException:
        manager.shutdown()
        raise


def _enter(etc: Path) -> None:
    try:
        namespace.enter(etc)
    except OSError as error:
        # Told to whoever asks for an Internet: an error here would only close the pipe.
        _refusals.append(error)


def _internet(folder: str) -> Internet:
    if _refusals:
        raise _refusals[0]
    # Imported here: some of its libraries start threads, which must come after the move into the network.
    from support.ssrf.internet import Internet

    return Internet(folder)


Manager.register("Internet", _internet)
