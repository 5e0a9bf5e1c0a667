"""Proves that replacing a model's file by garbage does not affect the running service.

A reload of the model fails and the old model keeps serving, whether the file was replaced by rename,
written in place or truncated.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

from reliability.faults.context import FaultContext, run_service
from reliability.load.clients import BothTransports
from reliability.load.metrics import metric, wait_until
from reliability.load.subject import BUNDLE
from reliability.load.test_requests import prepare_requests
from reliability.load.traffic import Traffic
from service import Service

TITLE = "a model's file replaced by garbage"
_ANSWERS = 20
_RELOADS = "blip_reloads_total"


async def run(context: FaultContext) -> None:
    """Damage each file in each way; then restore all files."""
    bundle = Path(shutil.copytree(BUNDLE, context.folder / "bundle"))
    async with run_service(context.make_service(bundle=bundle)) as service:
        requests = prepare_requests(service)
        async with Traffic(BothTransports(service), requests) as traffic:
            for name in ("vision_encoder.onnx.data", "text_decoder.onnx.data", "text_decoder.onnx"):
                for damage in (_replace, _overwrite, _truncate):
                    damage(bundle / name)
                    await traffic.wait_for_answers(_ANSWERS)
                    refused = await _reload(service, "failed")
                    await traffic.wait_for_answers(_ANSWERS)
                    claim = f"{damage.__name__.strip('_')} {name}: the reload fails"
                    context.report.check(claim, refused)
                    _restore(bundle / name)
            await traffic.wait_for_answers(_ANSWERS)
            accepted = await _reload(service, "ok")
            context.report.check("the restored files are loaded", accepted)
            await traffic.wait_for_answers(_ANSWERS)
        traffic.check(context.report)


async def _reload(service: Service, outcome: str) -> bool:
    """Whether a reload ends with `outcome` and not with the other one."""

    def count(of: str) -> float:
        return metric(service, _RELOADS, what="models", outcome=of)

    before = {of: count(of) for of in ("ok", "failed")}
    service.process.send_signal(signal.SIGHUP)
    await wait_until(
        lambda: any(count(of) > seen for of, seen in before.items()), "the outcome of a reload"
    )
    after = {of: await asyncio.to_thread(count, of) for of in before}
    return after == before | {outcome: before[outcome] + 1}


def _replace(path: Path) -> None:
    other = path.with_suffix(".garbage")
    other.write_bytes(os.urandom(path.stat().st_size))
    other.rename(path)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


def _restore(path: Path) -> None:
    fresh = path.with_suffix(".fresh")
    shutil.copy(BUNDLE / path.name, fresh)
    fresh.rename(path)
