"""Prints each caption while it is generated, with Triton's client over gRPC.

pip install 'tritonclient[grpc]'
python examples/python/triton_grpc.py examples/images/*.jpg
"""

import argparse
import queue
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--address", default="127.0.0.1:8080")
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--prompt", default="")
    arguments = parser.parse_args()

    prompt = np.array([arguments.prompt.encode()], dtype=np.object_)
    text = triton.InferInput("text", [1], "BYTES").set_data_from_numpy(prompt)
    answers = queue.Queue()
    with triton.InferenceServerClient(arguments.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for path in arguments.images:
            file = np.array([path.read_bytes()], dtype=np.object_)
            image = triton.InferInput("image", [1], "BYTES").set_data_from_numpy(file)
            client.async_stream_infer(arguments.model, [image, text], parameters={"stream": True})
            print(f"{path.name}: ", end="")
            final = False
            while not final:
                result, error = answers.get()
                if error:
                    print(error.message(), end="")
                    break
                print(result.as_numpy("generated_output").item().decode(), end="", flush=True)
                final = result.get_response().parameters["triton_final_response"].bool_param
            print()
        client.stop_stream()


if __name__ == "__main__":
    main()
