"""Fetches the ONNX Runtime library that the service loads from its PyPI wheel, verified by hash.

pip downloads the wheel and this script extracts the libraries, without a virtual environment.
`make build` runs it before the first build; --gpu fetches the library with the CUDA execution
provider.
"""

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LOG = logging.getLogger("fetch_onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
VERSION = "1.31.1"


def download(requirements: Path, folder: Path) -> Path:
    """Download the wheel for this machine, verified against the hashes in `requirements`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def extract(wheel: Path, folder: Path) -> list[str]:
    """Extract the shared libraries and licences of the wheel and return the libraries' names."""
    names = []
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            name = Path(entry).name
            is_library = entry.startswith("onnxruntime/capi/libonnxruntime")
            if is_library or entry in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
                with archive.open(entry) as source, open(folder / name, "wb") as target:
                    shutil.copyfileobj(source, target)
                names += [name] if is_library else []
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder in which lib/ is made")
    parser.add_argument("--gpu", action="store_true", help="the library with the CUDA provider")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    package = "onnxruntime-gpu" if arguments.gpu else "onnxruntime"
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.output) as temporary:
        try:
            wheel = download(ROOT / "requirements" / f"{package}.txt", Path(temporary))
        except subprocess.CalledProcessError as error:
            status = error.returncode
            LOG.error("error: cannot download %s %s (pip: %d)", package, VERSION, status)
            return 1
        staged = Path(temporary) / "lib"
        staged.mkdir()
        names = extract(wheel, staged)
        # `ort` loads the library by its name without a version.
        library = next(name for name in names if name.startswith("libonnxruntime.so."))
        (staged / "libonnxruntime.so").symlink_to(library)
        target = arguments.output / "lib"
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)
    LOG.info("%s %s: %s", package, VERSION, arguments.output / "lib")
    return 0


if __name__ == "__main__":
    sys.exit(main())
