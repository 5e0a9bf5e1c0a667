"""Captions pictures in one request with Triton's client over HTTP.

pip install 'tritonclient[http]'
python examples/python/triton_http.py examples/images/*.jpg --num-beams 3
"""

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--address", default="127.0.0.1:8080")
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--num-beams", type=int, default=1)
    arguments = parser.parse_args()

    files = np.array([path.read_bytes() for path in arguments.images], dtype=np.object_)
    image = triton.InferInput("image", [len(files)], "BYTES").set_data_from_numpy(files)
    prompt = np.array([arguments.prompt.encode()], dtype=np.object_)
    text = triton.InferInput("text", [1], "BYTES").set_data_from_numpy(prompt)
    wanted = [triton.InferRequestedOutput(name) for name in ("generated_output", "score")]

    with triton.InferenceServerClient(arguments.address) as client:
        result = client.infer(
            arguments.model,
            [image, text],
            outputs=wanted,
            parameters={"num_beams": arguments.num_beams},
        )
    captions, scores = result.as_numpy("generated_output"), result.as_numpy("score")
    for path, caption, score in zip(arguments.images, captions, scores, strict=True):
        print(f"{path.name}: {caption.decode()} ({score:.2g})")


if __name__ == "__main__":
    main()
