"""`make demo`: starts the service on the embedded model and captions the sample images, over REST and over gRPC.

REST is the request of the Inferless template, as its users send it, with the pictures on a web server of the demo's own.
"""

import argparse
import logging
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import service

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "examples" / "images"
LOG = logging.getLogger("demo")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line in the terminal for each."""

    def log_message(self, *_: object) -> None:
        pass


def template_request(url: str, text: str | None) -> dict:
    """What the template's curl command sends."""
    fields = [("img_url", url)] if text is None else [("img_url", url), ("text", text)]
    inputs = [{"name": n, "shape": [1], "data": [d], "datatype": "BYTES"} for n, d in fields]
    return {"inputs": inputs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=service.default_binary())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    pictures = sorted(path for path in IMAGES.iterdir() if path.suffix != ".md")

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(IMAGES)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{web.server_port}"
    with service.Service(binary=arguments.binary) as running:
        LOG.info("REST, the template's request (POST /v2/models/scenes/versions/1/infer):")
        for picture in pictures:
            body = template_request(f"{base}/{picture.name}", None)
            reply = running.post("/v2/models/scenes/versions/1/infer", body)
            LOG.info("  %-24s %s", picture.name, reply["outputs"][0]["data"][0])
        body = template_request(f"{base}/{pictures[0].name}", "a photography of")
        reply = running.post("/v2/models/scenes/versions/1/infer", body)
        LOG.info("  %-24s %s", f"{pictures[0].name} + text", reply["outputs"][0]["data"][0])
        LOG.info("gRPC, blip.v1.CaptionService/Caption with 3 beams:")
        for picture in pictures:
            best = running.caption(picture.read_bytes(), parameters={"num_beams": 3})[0]
            LOG.info("  %-24s %s  (score %.2g)", picture.name, best.text, best.score)
    web.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
