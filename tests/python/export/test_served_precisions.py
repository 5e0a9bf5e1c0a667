"""The service decodes the same tokens as a Python loop over the same graphs, in every precision.

So a mistake in its decoding loop is not mistaken for an effect of a lower precision.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from blip_onnx.generate import Bundle, CachedDecoder, SearchConfig, beam_search, greedy_search
from blip_onnx.manifest import preprocess
from oracle import random_checkpoint
from service import Service, models_toml
from support.exporting import TINY, Exporter

PRECISIONS = ("fp32", "int8", "fp16")
IMAGES = 12
NEW_TOKENS = 15


@pytest.fixture(scope="module")
def bundles(exporter: Exporter, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny checkpoint in each precision."""
    folder = tmp_path_factory.mktemp("served")
    for precision in PRECISIONS:
        exporter.export(tiny, folder / precision, "--precision", precision, "--min-agreement", "0")
    return folder


def test_tokens_equal_those_of_a_python_loop_in_every_precision(bundles: Path) -> None:
    models = bundles / "models.toml"
    models.write_text(models_toml({name: bundles / name for name in PRECISIONS}, "fp32"))
    images = random_checkpoint.random_images(IMAGES, TINY.image_size, seed=11)
    captions = set()
    with Service(models=models, log=bundles / "service.log") as service:
        for precision in PRECISIONS:
            bundle = Bundle(bundles / precision, threads=2)
            eos = bundle.manifest["text"]["eos_token_id"]
            for image in images:
                file = io.BytesIO()
                image.save(file, "PNG")
                cross = bundle.encode(preprocess(image, bundle.manifest))
                for beams in (1, 3):
                    config = SearchConfig(eos, beams, NEW_TOKENS)
                    decoder = CachedDecoder(bundle, cross, NEW_TOKENS + 1)
                    prompt = [bundle.manifest["text"]["bos_token_id"]]
                    if beams == 1:
                        expected = greedy_search(decoder, prompt, config)
                    else:
                        expected, _ = beam_search(decoder, prompt, config)
                    parameters = {"num_beams": beams, "max_new_tokens": NEW_TOKENS}
                    reply = service.caption(file.getvalue(), None, parameters, precision)
                    assert list(reply[0].token_ids) == expected, (precision, beams)
                    captions.add(tuple(expected))
    assert len(captions) > IMAGES
