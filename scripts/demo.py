"""`make demo`: captions the sample images with the embedded model over REST and gRPC.

The REST request is that of the Inferless template; the demo serves the images at local URLs.
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
    """Serves files without logging requests."""

    def log_message(self, *_: object) -> None:
        pass


def template_request(url: str, text: str | None) -> dict:
    """Return the body that the template's curl command sends."""
    fields = {"img_url": url} | ({} if text is None else {"text": text})
    inputs = [
        {"name": name, "shape": [1], "data": [value], "datatype": "BYTES"}
        for name, value in fields.items()
    ]
    return {"inputs": inputs}


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
