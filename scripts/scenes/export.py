"""`make export-scenes`: puts the bundle of the embedded model beside its checkpoint, through the ordinary exporter.

The exporter refuses a folder that is not empty, so it writes to a temporary one and the files are moved.
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
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(dir=MODEL) as temporary:
        bundle = Path(temporary) / "bundle"
        # Relative, because the name goes into the manifest.
        command = [sys.executable, "-m", "blip_onnx", "--model", "models/scenes/checkpoint"]
        command += ["--output", str(bundle), "--images", "examples/images"]
        done = subprocess.run(command, cwd=ROOT)
        if done.returncode != 0:
            return done.returncode
        for file in sorted(bundle.iterdir()):
            shutil.move(file, MODEL / file.name)
            logging.info(
                "%9d  %s", (MODEL / file.name).stat().st_size, MODEL.name + "/" + file.name
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
