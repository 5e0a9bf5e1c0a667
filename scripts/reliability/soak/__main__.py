"""Runs a soak test against the release binary: `make soak`, or `make soak SOAK="--minutes 60"`.

    python -m reliability.soak [--minutes 60] [--seed N] [--json FILE]

Sends valid, invalid and abandoned requests of every API at 80 % of the capacity of the service.
Proves that no kind of request ever has an outcome that is not allowed (valid ones must get
transformers' caption), and that resident memory does not grow after the warm-up. Caches are on and
small, so that they are full before the warm-up ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
from pathlib import Path

from bench.subjects.served import Caches, models_toml
from reliability.load.report import conclude
from reliability.load.subject import BUNDLE, split_cores
from reliability.load.test_requests import MODEL
from reliability.soak.run import soak
from service import Service

_CACHES = Caches(captions=100_000, images=2_000_000)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--json", type=Path, help="write counts and samples here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cores, others = split_cores()
    os.sched_setaffinity(0, others)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        models = Path(folder, "models.toml")
        models.write_text(models_toml({MODEL: BUNDLE}, _CACHES), "utf-8")
        service = Service(
            models=models,
            log=Path(folder, "service.log"),
            prefix=("taskset", "--cpu-list", ",".join(map(str, cores))),
        )
        with service:
            report = asyncio.run(soak(service, options.minutes * 60, options.seed))
    sys.stdout.write(f"{report}\n")
    return conclude([report], options.json)


if __name__ == "__main__":
    sys.exit(main())
