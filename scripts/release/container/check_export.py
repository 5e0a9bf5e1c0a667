"""Exports a checkpoint in the export image, without root and with a read-only root folder."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from release.container.buildah import ROOT, Buildah
from release.container.check import CAPTION, PICTURE, CheckError, Jail, check_files, folder_size

LOG = logging.getLogger("container")
CHECKPOINT = ROOT / "models" / "scenes" / "checkpoint"
BINARY = ROOT / "target" / "release" / "blip-serve"
# The bundle is read through a pipe, because the mounts of the container are not visible outside.
EXPORT = """
cd "$0"
python -m blip_onnx --model /checkpoint --output /tmp/bundle >&2
exec tar --directory /tmp --create bundle
"""


def export(jail: Jail, folder: Path) -> Path:
    """Export the embedded model's checkpoint in the container and return the bundle."""
    shutil.copytree(CHECKPOINT, jail.root / "checkpoint")
    command = jail.command("/bin/sh", "-euc", EXPORT, jail.config["WorkingDir"])
    done = subprocess.run(command, capture_output=True, env=jail.environment())
    if done.returncode != 0:
        raise CheckError(f"the export ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "bundle"


def check_caption(bundle: Path) -> None:
    """Check that this machine's binary captions with the bundle."""
    command = [str(BINARY), "caption", "--model", str(bundle), str(PICTURE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    LOG.info("caption: %s", done.stdout.strip())
    if done.returncode != 0 or done.stdout.strip() != f"{PICTURE}\t{CAPTION}":
        raise CheckError(f"the bundle does not caption: {done.stdout}{done.stderr}")


def check(buildah: Buildah, image: str) -> int:
    """Check the export image and return the exit status."""
    config = buildah.config(image)
    try:
        if not config["User"].startswith("65532"):
            raise CheckError(f"the user is {config['User']}")
        with buildah.container(image) as container, tempfile.TemporaryDirectory() as folder:
            root = buildah.mount(container)
            check_files(root)
            if (root / "bundles").stat().st_uid != 65532:
                raise CheckError("/bundles is not the exporter's")
            LOG.info("%8.1f MB in all", folder_size(root) / 1e6)
            check_caption(export(Jail(root, config), Path(folder)))
    except CheckError as error:
        LOG.error("error: %s", error)
        return 1
    return 0
