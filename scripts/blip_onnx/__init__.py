"""Writes BLIP captioning checkpoints as ONNX bundles, without tracing.

`checkpoint` loads what transformers loads, `vision` and `text` build the two graphs on `graph`,
`manifest` describes the bundle and `verify` compares it with transformers; `bundle` does all of
it. `precision` says what a layer is multiplied in: `quantize` and `half` are int8 and fp16, and
`lower` holds both to the captions of the fp32 graphs (`agreement`, `sensitivity`).
"""


class ExportError(Exception):
    """Why no bundle is left behind, as one line for the person who asked for it."""
