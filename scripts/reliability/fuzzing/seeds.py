"""Writes the seeds of the fuzz targets to fuzz/corpus: real requests and files of few bytes.

    python -m reliability.fuzzing.seeds

The file name of a seed describes it. `make fuzz-minimise` replaces seeds and found inputs by the
smallest set with the same coverage, named by their hash; this script adds seeds to that set.
"""

from __future__ import annotations

import json
import logging
import random
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conformance.rows import Json, asking, message, tensor
from parity.corpus.generate import draw_picture
from parity.corpus.table import RECIPES
from service import ROOT, stubs

logger = logging.getLogger("fuzz_seeds")

CORPUS = ROOT / "fuzz" / "corpus"
GOLDEN = ROOT / "tests" / "golden"
SEED = 5
MAX_SEED_BYTES = 4000
"""Larger files are left out, because few mutations of them change the coverage."""

PICTURE = bytes.fromhex("47494638376101000100800000ff0000ffffff2c00000000010001000002024401003b")
BASE64 = b64encode(PICTURE).decode()
URL = f"data:image/gif;base64,{BASE64}"
WEB = "http://example.com/cat.jpg"
GREEDY: Json = {"max_new_tokens": 5, "min_new_tokens": 1, "repetition_penalty": 1.5}
BEAMS: Json = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": -0.5}
BEAMS |= {"early_stopping": "never", "no_repeat_ngram_size": 2, "min_length": 3}
SAMPLING: Json = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 7}

INFERENCES: dict[str, Json] = {
    "template": asking(tensor("img_url", URL), tensor("text", "a photography of", optional=True)),
    "web": asking(tensor("image_url", WEB), id="a1"),
    "several": asking(tensor("img_url", WEB, WEB, URL), tensor("prompt", "a", "two", "")),
    "file": asking(tensor("image", BASE64), parameters=BEAMS),
    "sampled": asking(tensor("img_url", WEB), parameters=SAMPLING),
    "inputs": asking(
        tensor("img_url", WEB),
        tensor("num_beams", 4, datatype="INT32"),
        tensor("length_penalty", 0.5, datatype="FP32"),
        tensor("bad_words", "cat", "a dog"),
        parameters=GREEDY | {"sequence_id": 5, "triton_x": "y"},
        outputs=[{"name": "score"}, {"name": "token_ids"}, {"name": "finish_reason"}],
    ),
}
SHORT: dict[str, Json] = {
    "url": {"image_url": WEB, "id": "7", "parameters": GREEDY},
    "file": {"image": BASE64, "prompt": "a photography of", "model": "scenes"},
    "beams": {"img_url": URL, "parameters": BEAMS | {"bad_words": ["cat", "dog"]}},
}
GENERATE: dict[str, Json] = {
    "url": {"image_url": WEB, "text_input": "a", "stream": False, **SAMPLING},
    "file": {"image": BASE64, "parameters": BEAMS},
}
FORMS = [
    [('name="image"; filename="a.gif"', PICTURE), ('name="prompt"', b"a"), ('name="top_k"', b"3")],
    [('name="image_url"', WEB.encode()), ('name="parameters"', json.dumps(BEAMS).encode())],
    [('name="bad_words"', b"cat"), ('name="bad_words"', b"dog"), ('name="image"', PICTURE)],
]
URLS = [WEB, URL, "https://user:key@example.com:8443/a?b#c", "http://127.1/", "http://[::1]:80/"]
URLS += ["http://[::ffff:10.0.0.1]/", "http://0x7f000001", "http://localhost", "data:,hello%20you"]
URLS += ["http://169.254.169.254/latest/", "HTTP:\\\\example.com\\", "http://例え.jp/", "ftp://a/"]
URLS += ["http://[64:ff9b::808:808]/", "http://１２７.0.0.1", "data:image/gif;base64,R0lGO%44lh"]
MODELS = """default = "scenes"
[[models]]
name = "scenes"
path = "models/scenes"
version = "2"
aliases = ["emoji", "s"]
execution_providers = ["cuda", "cpu"]
device_id = 1
gpu_mem_limit = 1_000_000
threads = 2
max_rows = 32
max_batch_size = 4
max_batch_delay = 0.01
caption_cache_bytes = 0
image_cache_bytes = 0x100000
single_flight = false
[models.generation]
max_length = 20
num_beams = 3
early_stopping = "never"
bad_words = ["cat"]
temperature = 0.5
"""

Seeds = Iterator[tuple[str, bytes]]


def image() -> Seeds:
    """Yield small files of every kind that the service reads or refuses."""
    for jpeg in json.loads((GOLDEN / "images.json").read_text())["jpegs"]:
        yield jpeg["name"], b64decode(jpeg["file"])
    samples = (ROOT / "crates/image-processor/src/decode/samples.txt").read_text().splitlines()
    for number, line in enumerate(line for line in samples if not line.startswith("#")):
        yield f"sample-{number}", bytes.fromhex(line.split(" | ")[2])
    for number, (name, _, recipe) in enumerate(RECIPES):
        rng = np.random.default_rng([SEED, number])
        width, height = (int(side) for side in rng.integers(5, 20, 2))
        yield name, recipe(rng, draw_picture(rng, width, height))


def oip_json() -> Seeds:
    for name, body in INFERENCES.items():
        yield name, json.dumps(body).encode()


def oip_binary() -> Seeds:
    """Yield the JSON, a NUL and the tensors' bytes; or the header's text and any body."""
    for name, body in INFERENCES.items():
        head, blobs = json.loads(json.dumps(body)), b""
        for entry in head["inputs"]:
            blob = binary(entry)
            entry["parameters"] = {"binary_data_size": len(blob)}
            del entry["data"]
            blobs += blob
        head.setdefault("parameters", {})["binary_data_output"] = True
        yield name, json.dumps(head).encode() + b"\0" + blobs
    yield "picture-alone", b"0\n" + PICTURE
    yield "no-number", b"x\n{}"
    yield from random_bytes("s", 12)


def grpc_raw() -> Seeds:
    for name, body in INFERENCES.items():
        request = message({key: value for key, value in body.items() if key != "parameters"})
        for key, value in body.get("parameters", {}).items():
            setattr(request.parameters[key], KINDS[type(value)], value)
        yield f"typed-{name}", b"m" + request.SerializeToString()
        for tensor_, entry in zip(request.inputs, body["inputs"], strict=True):
            tensor_.ClearField("contents")
            request.raw_input_contents.append(binary(entry))
        yield f"raw-{name}", b"m" + request.SerializeToString()
    caption, _ = stubs()
    for name, fields in {"url": {"image_url": WEB}, "file": {"image": PICTURE}}.items():
        request = caption.CaptionRequest(id="1", model="scenes", prompt="a", **fields)
        for key, value in (GREEDY | BEAMS | SAMPLING).items():
            setattr(request.parameters, key, value)
        yield f"caption-{name}", b"c" + request.SerializeToString()
    yield from random_bytes("s", 12)


KINDS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


def binary(entry: Json) -> bytes:
    """Encode the elements of a tensor as bytes."""
    if entry["datatype"] != "BYTES":
        kind = {"INT32": "<i", "FP32": "<f"}[entry["datatype"]]
        return b"".join(struct.pack(kind, value) for value in entry["data"])
    is_file = entry["name"] == "image"
    values = [b64decode(text) if is_file else text.encode() for text in entry["data"]]
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def caption_json() -> Seeds:
    for letter, bodies in {"c": SHORT, "g": GENERATE}.items():
        for name, body in bodies.items():
            yield f"{letter}-{name}", letter.encode() + json.dumps(body).encode()
    for number, form in enumerate(FORMS):
        parts = [
            b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value)
            for head, value in form
        ]
        yield f"form-{number}", b"f" + b"".join(parts) + b"--x--\r\n"
    yield "base64", b"b" + BASE64.encode()
    yield "base64-wrapped", b"baGVs\r\nbG8"


def url() -> Seeds:
    for number, text in enumerate(URLS):
        yield str(number), text.encode()


def bundle() -> Seeds:
    manifest = json.loads((ROOT / "models" / "scenes" / "manifest.json").read_text())
    for name in ("exported_with", "verification"):
        manifest.pop(name, None)
    manifest["preprocessor"] |= {"height": 8, "width": 8}
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = "00"
    yield "manifest", b"m" + json.dumps(manifest, separators=(",", ":")).encode()
    yield "models", b"t" + MODELS.encode()
    yield "models-least", b't default = "a"\nmodels = [{name = "a", path = "p"}]\n'


def prompt() -> Seeds:
    golden: Any = json.loads((GOLDEN / "tokenizer.json").read_text())
    for number, case in enumerate(golden["prompts"][:60]):
        yield f"text-{number}", case["prompt"].encode()
    for number, case in enumerate(golden["texts"]):
        ids = [id_ % 65_536 for id_ in case["ids"]]
        # The target reads bytes that are not valid UTF-8 as ids.
        yield f"ids-{number}", struct.pack(f"<{len(ids) + 1}H", *ids, 0xFFFF)


def beam_search() -> Seeds:
    yield from random_bytes("", 60)


def random_bytes(letter: str, count: int) -> Seeds:
    """Yield random bytes, for targets that derive their input from them."""
    rng = random.Random(SEED)
    for number in range(count):
        yield f"made-up-{number}", letter.encode() + rng.randbytes(40 + 8 * number)


TARGETS = [image, oip_json, oip_binary, grpc_raw, caption_json, url, bundle, prompt, beam_search]


def write(folder: Path, seeds: Seeds) -> int:
    """Write the seeds up to MAX_SEED_BYTES and return the number of bytes written."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, data in seeds:
        if len(data) <= MAX_SEED_BYTES:
            (folder / name).write_bytes(data)
            total += len(data)
    return total


def main() -> None:
    """Write the seeds of all targets."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for target in TARGETS:
        total = write(CORPUS / target.__name__, target())
        logger.info("%s: %d bytes", target.__name__, total)


if __name__ == "__main__":
    main()
