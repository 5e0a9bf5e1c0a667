"""Writes BLIP captioning checkpoints as ONNX bundles, without tracing.

`checkpoint` loads what transformers loads, `vision` and `text` build the two graphs on `graph`,
`manifest` describes the bundle and `verify` compares it with transformers.
"""


class ExportError(Exception):
    """Why no bundle is left behind, as one line for the person who asked for it."""
