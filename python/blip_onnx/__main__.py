"""`python -m blip_onnx`: the exporter."""

import sys

from blip_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
