"""Proves that a model's file that is replaced by garbage changes nothing while the service runs, and that a
reload of it is refused: the old model goes on. Both by rename and by writing into the file in place.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from reliability.faults.stage import Stage, entered
from reliability.load.clients import Both
from reliability.load.metrics import metric, until
from reliability.load.subject import BUNDLE
from reliability.load.test_requests import learn
from reliability.load.traffic import Traffic
from service import Service

TITLE = "a model's file replaced by garbage"
_ANSWERS = 20
_RELOADS = "blip_reloads_total"


async def run(stage: Stage) -> None:
    """Each file, each way; then the good ones again."""
    bundle = Path(shutil.copytree(BUNDLE, stage.folder / "bundle"))
    async with entered(stage.service(bundle=bundle)) as service:
        questions = learn(service)
        async with Traffic(Both(service), questions) as traffic:
            for name in ("vision_encoder.onnx.data", "text_decoder.onnx.data", "text_decoder.onnx"):
                for replace in (_by_rename, _in_place, _shortened):
                    await _replaced(stage, service, traffic, (bundle / name, replace))
            await traffic.more(_ANSWERS)
            accepted = await _reload(service, "ok")
            stage.report.check("the right files again are taken", accepted)
            await traffic.more(_ANSWERS)
        traffic.judge(stage.report)


async def _replaced(
    stage: Stage, service: Service, traffic: Traffic, what: tuple[Path, Callable[[Path], None]]
) -> None:
    path, replace = what
    replace(path)
    await traffic.more(_ANSWERS)
    refused = await _reload(service, "failed")
    await traffic.more(_ANSWERS)
    way = replace.__name__.strip("_").replace("_", " ")
    stage.report.check(f"{path.name} {way}: the reload is refused", refused)
    good = BUNDLE / path.name
    fresh = path.with_suffix(".fresh")
    shutil.copy(good, fresh)
    fresh.rename(path)


async def _reload(service: Service, outcome: str) -> bool:
    """Whether a reload ends like this and not in the other way."""

    def count(of: str) -> float:
        return metric(service, _RELOADS, what="models", outcome=of)

    before = {of: count(of) for of in ("ok", "failed")}
    service.process.send_signal(signal.SIGHUP)
    await until(
        lambda: any(count(of) > seen for of, seen in before.items()), "the outcome of a reload"
    )
    after = {of: await asyncio.to_thread(count, of) for of in before}
    return after == before | {outcome: before[outcome] + 1}


def _by_rename(path: Path) -> None:
    other = path.with_suffix(".garbage")
    other.write_bytes(os.urandom(path.stat().st_size))
    other.rename(path)


def _in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


def _shortened(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)
