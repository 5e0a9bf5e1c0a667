"""Writes BLIP captioning checkpoints as ONNX bundles, without tracing.

`checkpoint` loads what transformers loads, `graphs` builds and writes the two graphs, `manifest`
describes the bundle and `verification` compares it with transformers; `bundle` does all of it.
`precision` decides what a layer is multiplied in, and `quantization` holds int8 and fp16 to the
captions of the fp32 graphs. `generate` searches captions over the graphs of a bundle.
"""


class ExportError(Exception):
    """Why no bundle is left behind, as one line for the person who asked for it."""
