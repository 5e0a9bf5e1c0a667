"""Exports a BLIP captioning checkpoint as an ONNX bundle that blip-serve loads; see `blip_onnx.cli`.

Usage: `python scripts/export_onnx.py --model <hub id or folder> --output <folder>`.
"""

import sys

from blip_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
