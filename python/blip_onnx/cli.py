"""Exports a BLIP captioning checkpoint as an ONNX bundle that blip-serve loads.

Usage: `python -m blip_onnx --model <hub id or folder> --output <folder>`. The bundle is
verified against transformers before it appears under its name; any failure is one line on stderr,
a non-zero exit and no folder. In fp32 every caption must be that of transformers. fp16 and int8
are held to the captions of the fp32 graphs, on pictures of the caller's (`--min-agreement`).
"""

from __future__ import annotations

import argparse
import errno
import logging
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from blip_onnx import ExportError
from blip_onnx.precision import PRECISIONS
from blip_onnx.request import Request

logger = logging.getLogger("export_onnx")


def parse_arguments(arguments: list[str] | None = None) -> Request:
    """The command line as a `Request`; exits with 2 when it is malformed."""
    parser = argparse.ArgumentParser(
        "blip_onnx", description="Export a BLIP captioning checkpoint to ONNX."
    )
    parser.add_argument("--model", required=True, help="hub id or folder of the checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="new or empty folder")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--images", type=Path, help="folder of pictures to verify with; fp16 and int8 need 32"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.95,
        help="share of the fp32 captions that fp16 and int8 must give; 0 quantises everything, "
        "for measuring speed on random weights",
    )
    parser.add_argument(
        "--alpha",
        choices=("white", "drop"),
        default="white",
        help="transparent pixels: on white (transformers 5) or dropped (transformers 4)",
    )
    parser.add_argument(
        "--resize-order",
        choices=("pillow13", "pillow12"),
        default="pillow13",
        help="order of the resize passes, by Pillow version",
    )
    return Request(**vars(parser.parse_args(arguments)))


def export(request: Request) -> dict[str, Any]:
    """Write and verify the bundle that is asked for; the manifest on success."""
    request.check()
    # torch and transformers take seconds to import; a refused request need not wait for them.
    import transformers

    from blip_onnx import bundle, checkpoint

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    loaded = checkpoint.load(request.model, request.revision)
    logger.info("loaded %s", request.model)
    output = request.output
    output.parent.mkdir(parents=True, exist_ok=True)
    # Not by process id: in containers that is always the same, and several may write to one volume.
    partial = output.parent / f".{output.name}.partial-{secrets.token_hex(8)}"
    partial.mkdir()
    try:
        manifest = bundle.write(partial, loaded, request)
        # Atomic: the bundle appears under its name complete, or not at all.
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def main() -> int:
    """Run the exporter; the process exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # So that a terminated export removes its partial folder, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    request = parse_arguments()
    try:
        manifest = export(request)
    except ExportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        reason = "disk full" if error.errno in (errno.ENOSPC, errno.EFBIG) else str(error)
        sys.stderr.write(f"error: cannot write {request.output}: {reason}\n")
        return 1
    _report(request, manifest)
    return 0


def _report(request: Request, manifest: dict[str, Any]) -> None:
    figures, gate = manifest["verification"], manifest.get("quantization")
    logger.info(
        "%s: %s transformers, %d captions of %d images (%d tokens), largest logit difference %.3g",
        request.output,
        "compared with" if gate else "verified against",
        figures["cases"],
        figures["images"],
        figures["tokens"],
        figures["max_abs_logit_difference"],
    )
    if gate:
        logger.info(
            "%s: %d linear layers, %d kept in fp32; %.1f %% of %d captions as in fp32, CIDEr %.2f",
            request.precision,
            gate["quantized"],
            len(gate["kept"]),
            100 * gate["agreement"],
            gate["captions"],
            gate["cider"],
        )
