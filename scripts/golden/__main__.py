"""Writes the files of tests/golden from transformers and Pillow.

python -m golden [--only PART ...]
"""

from __future__ import annotations

import argparse
import logging

from golden import captions, generation, images

PARTS = {"captions": captions.write, "generation": generation.write, "images": images.write}


def main() -> None:
    """Write the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for part in options.only:
        PARTS[part]()


if __name__ == "__main__":
    main()
