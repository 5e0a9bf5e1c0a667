"""`make export-scenes`: exports the bundle of the embedded model into models/scenes.

The exporter only writes to an empty folder, so it writes to a temporary one and the files are moved.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "scenes"


def main() -> int:
    """Export the bundle and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(dir=MODEL) as temporary:
        bundle = Path(temporary) / "bundle"
        # A relative path, because it is written into the manifest.
        command = [sys.executable, "-m", "blip_onnx", "--model", "models/scenes/checkpoint"]
        command += ["--output", str(bundle), "--images", "examples/images"]
        done = subprocess.run(command, cwd=ROOT)
        if done.returncode != 0:
            return done.returncode
        for file in sorted(bundle.iterdir()):
            target = Path(shutil.move(file, MODEL / file.name))
            logging.info("%9d  %s/%s", target.stat().st_size, MODEL.name, target.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
