"""Calls blip.v1.CaptionService: one caption, one as a stream, and many on one stream.

    pip install grpcio-tools
    python examples/python/typed_grpc.py examples/images/*.jpg

The stubs are generated from proto/ when the program starts; other projects would run protoc once.
"""

import argparse
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "proto"))
messages, services = grpc.protos_and_services("blip/v1/caption.proto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--address", default="127.0.0.1:8080")
    parser.add_argument("--model", default="", help="the server's default model if not given")
    parser.add_argument("--prompt", default="")
    arguments = parser.parse_args()

    requests = [
        messages.CaptionRequest(
            id=path.name,
            image=path.read_bytes(),
            model=arguments.model,
            prompt=arguments.prompt,
        )
        for path in arguments.images
    ]
    with grpc.insecure_channel(arguments.address) as channel:
        stub = services.CaptionServiceStub(channel)

        best = stub.Caption(requests[0]).captions[0]
        reason = messages.FinishReason.Name(best.finish_reason)
        print(f"Caption        {best.text} (score {best.score:.2g}, {reason})")

        print("StreamCaption  ", end="")
        for event in stub.StreamCaption(requests[0]):
            print(event.piece, end="", flush=True)
        print()

        for result in stub.CaptionMany(iter(requests)):
            failed = result.HasField("error")
            text = result.error.message if failed else result.response.captions[0].text
            print(f"CaptionMany    {result.id}: {text}")


if __name__ == "__main__":
    main()
