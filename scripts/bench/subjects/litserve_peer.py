"""The Python server that the service is compared with: the same checkpoint in LitServe.

`python_server.py` runs it with the Python of .venv-bench. It accepts the JSON of `/v1/captions`
(base64 of a file's bytes) at `/predict` and returns the text, from transformers in fp32.
"""

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import litserve
import PIL.Image
import torch
from transformers import AutoTokenizer, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

# Seconds that a partial batch waits for more requests.
_BATCH_SECONDS = 0.01


class CaptionApi(litserve.LitAPI):
    """The model of one worker. With batches, `predict` gets and returns a list."""

    def __init__(self, checkpoint: Path, threads: int, new_tokens: int, max_batch: int) -> None:
        timeout = _BATCH_SECONDS if max_batch > 1 else 0.0
        super().__init__(max_batch_size=max_batch, batch_timeout=timeout)
        self.checkpoint, self.threads, self.new_tokens = checkpoint, threads, new_tokens
        self.is_batched = max_batch > 1

    def setup(self, device: str) -> None:
        """Load the checkpoint in the worker's process."""
        if self.threads:
            torch.set_num_threads(self.threads)
        self.model = BlipForConditionalGeneration.from_pretrained(self.checkpoint).eval()
        self.processor = BlipImageProcessorPil.from_pretrained(self.checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)

    def decode_request(self, request) -> PIL.Image.Image:
        """Decode the image; without an annotation of `request`, which LitServe would interpret."""
        return PIL.Image.open(io.BytesIO(base64.b64decode(request["image"])))

    def batch(self, inputs: list[PIL.Image.Image]) -> list[PIL.Image.Image]:
        """Return the list, which the processor accepts."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Caption all images of a batch, or a single image."""
        pixels = self.processor(x, return_tensors="pt")["pixel_values"]
        limits = {"min_new_tokens": self.new_tokens, "max_new_tokens": self.new_tokens}
        with torch.inference_mode():
            ids = self.model.generate(pixel_values=pixels, **limits)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts if self.is_batched else texts[0]

    def unbatch(self, output: list[str]) -> list[str]:
        """Return one text for each request."""
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        """Return the JSON of a response."""
        return {"caption": output}


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description="Serve a BLIP checkpoint with LitServe.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of torch per worker; 0 for its default"
    )
    arguments = parser.parse_args()
    api = CaptionApi(
        arguments.checkpoint, arguments.threads, arguments.new_tokens, arguments.max_batch
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=arguments.workers, timeout=600
    )
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False)


if __name__ == "__main__":
    main()
