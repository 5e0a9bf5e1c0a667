"""Takes the screenshot of the playground in README: docs/images/playground.png.

    python -m release.screenshot [--binary FILE] [--output FILE]

Starts the service on the embedded model, adds four sample images in Debian's Chromium, waits for their captions.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from service import ROOT, Service, default_binary

IMAGES = ["tree-cat.png", "umbrella-guitar.jpg", "rocket-guitar.webp", "cats.jpg"]
SIZE = {"width": 1180, "height": 760}
# As root, Chromium's sandbox refuses to start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--binary", type=Path, default=default_binary(), help="the program")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "docs" / "images" / "playground.png",
        help="the PNG file",
    )
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with Service(binary=args.binary) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=SIZE, color_scheme="light", device_scale_factor=1)
        page.goto(service.url)
        page.locator("#state[data-state=ready]").wait_for()
        page.set_input_files("#files", [ROOT / "examples" / "images" / name for name in IMAGES])
        page.click("#run")
        page.locator(".card[data-state=done]").nth(len(IMAGES) - 1).wait_for()
        page.screenshot(path=args.output)
    print(args.output)


if __name__ == "__main__":
    main()
