"""Exports a BLIP captioning checkpoint as an ONNX bundle that blip-serve loads.

Usage: `python -m blip_onnx --model <hub id or folder> --output <folder>`. The bundle is
verified against transformers before it appears under its name; a failure is one line on stderr,
a non-zero exit status and no folder. In fp32 every caption must equal that of transformers. The
captions of fp16 and int8 are compared with those of fp32 on the images of `--images`, and a share
of `--min-agreement` must be equal.
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
from blip_onnx.options import ExportOptions
from blip_onnx.precision import PRECISIONS

logger = logging.getLogger("export_onnx")


def parse_arguments(arguments: list[str] | None = None) -> ExportOptions:
    """Parse the command line; exits with status 2 if it is malformed."""
    parser = argparse.ArgumentParser(
        "blip_onnx", description="Export a BLIP captioning checkpoint to ONNX."
    )
    parser.add_argument("--model", required=True, help="hub id or folder of the checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="new or empty folder")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--images", type=Path, help="folder of images to verify with; fp16 and int8 need 32"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.95,
        help="share of captions of fp16 and int8 that must equal those of fp32; 0 quantises "
        "every layer, for measuring speed on random weights",
    )
    parser.add_argument(
        "--alpha",
        choices=("white", "drop"),
        default="white",
        help="transparent pixels: composited on white (transformers 5), or their transparency "
        "dropped (transformers 4)",
    )
    parser.add_argument(
        "--resize-order",
        choices=("pillow13", "pillow12"),
        default="pillow13",
        help="order of the resize passes, by Pillow version",
    )
    return ExportOptions(**vars(parser.parse_args(arguments)))


def export(options: ExportOptions) -> dict[str, Any]:
    """Write and verify a bundle and return its manifest; raises `ExportError` or `OSError`."""
    options.check()
    # torch and transformers take seconds to import, so options that cannot be used fail before.
    import transformers

    from blip_onnx import bundle, checkpoint

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    loaded = checkpoint.load(options.model, options.revision)
    logger.info("loaded %s", options.model)
    output = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: it is the same in every container, and several may write to one volume.
    partial = output.parent / f".{output.name}.partial-{secrets.token_hex(8)}"
    partial.mkdir()
    try:
        manifest = bundle.write(partial, loaded, options)
        # The rename is atomic: a bundle under its final name is complete.
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def main() -> int:
    """Run the exporter and return the exit status of the process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # An exception, so that a terminated export also removes its partial folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = parse_arguments()
    try:
        manifest = export(options)
    except ExportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        reason = "disk full" if error.errno in (errno.ENOSPC, errno.EFBIG) else str(error)
        sys.stderr.write(f"error: --output: cannot write {options.output}: {reason}\n")
        return 1
    _log_result(options, manifest)
    return 0


def _log_result(options: ExportOptions, manifest: dict[str, Any]) -> None:
    figures, quantization = manifest["verification"], manifest.get("quantization")
    logger.info(
        "%s: %s transformers, %d captions of %d images (%d tokens), largest logit difference %.3g",
        options.output,
        "compared with" if quantization else "verified against",
        figures["cases"],
        figures["images"],
        figures["tokens"],
        figures["max_abs_logit_difference"],
    )
    if quantization:
        logger.info(
            "%s: %d linear layers, %d kept in fp32; %.1f %% of %d captions as in fp32, CIDEr %.2f",
            options.precision,
            quantization["quantized"],
            len(quantization["kept"]),
            100 * quantization["agreement"],
            quantization["captions"],
            quantization["cider"],
        )
