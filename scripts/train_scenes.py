"""Trains the embedded model models/scenes: a small BLIP that captions rendered sprite scenes.

First the vision tower is trained to classify the object of each patch, then the captioner by
teacher forcing, with prompts. Every batch is a function of the step, so a resumed run equals an
uninterrupted one. At the end `scenes.model` writes the checkpoint for transformers.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipForConditionalGeneration

from scenes.batch import ROLES, Batch, make_batch, normalise
from scenes.dataset import BACKGROUNDS, KINDS, OBJECTS, SIDE, make_scene, render
from scenes.model import BOS, PAD, PATCH, SEP, Words, config, export

LOG = logging.getLogger("train_scenes")
CHECKPOINT = Path(__file__).resolve().parent.parent / "models" / "scenes" / "checkpoint"
EVALUATED = ("heldout", "unseen")  # splits of which 200 scenes are captioned at every save
REPORT_EVERY = 100  # steps
# Standard deviation of the initial position embeddings, near that of patch embeddings.
POSITION_SPREAD = 0.4


@dataclass(frozen=True)
class Options:
    """The command line."""

    vocabulary: Path
    out: Path
    work: Path
    vision_steps: int
    caption_steps: int
    batch: int
    rate: float
    seed: int
    threads: int
    save_every: int
    export_only: bool


class Trainee(nn.Module):
    """The model on compact ids, with auxiliary heads that are not exported."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        ids = (words.compact[BOS], words.compact[SEP], words.compact[PAD])
        self.blip = BlipForConditionalGeneration(config(len(words.used), *ids))
        width = self.blip.config.vision_config.hidden_size
        with torch.no_grad():  # initial positions in which rows and columns differ
            grid = torch.randn(2, SIDE // PATCH, width) * POSITION_SPREAD
            patches = (grid[0][:, None] + grid[1][None]).flatten(0, 1)
            self.blip.vision_model.embeddings.position_embedding[0, 1:] = patches
        self.patch_object = nn.Linear(width, len(OBJECTS) + 1)
        self.patch_role = nn.Linear(width, ROLES)
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.kind = nn.Linear(width, len(KINDS))

    def vision_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Return the loss of object and role of every patch, and of background and layout."""
        objects, role = batch.patches.flatten(0, 1).unbind(-1)
        patches = tokens[:, 1:].flatten(0, 1)
        loss = functional.cross_entropy(self.patch_object(patches).float(), objects)
        loss += functional.cross_entropy(self.patch_role(patches).float(), role)
        loss += functional.cross_entropy(self.background(tokens[:, 0]).float(), batch.background)
        return loss + functional.cross_entropy(self.kind(tokens[:, 0]).float(), batch.kind)

    def caption_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross entropy of the next word piece, outside prompt and padding."""
        logits = self.blip.text_decoder(
            input_ids=batch.ids[:, :-1], encoder_hidden_states=tokens, use_cache=False
        ).logits
        labels = batch.labels[:, 1:].flatten()
        return functional.cross_entropy(logits.float().flatten(0, 1), labels, ignore_index=-100)


@torch.no_grad()
def exact(trainee: Trainee, words: Words, split: str, count: int) -> float:
    """Return the share of greedy captions that are exactly right."""
    scenes = [make_scene(split, index) for index in range(count)]
    images = normalise([render(scene) for scene in scenes])
    rows = trainee.blip.generate(pixel_values=images, max_new_tokens=20).tolist()
    texts = [words.decode(row[1:]) for row in rows]
    for scene, text in list(zip(scenes, texts, strict=True))[:3]:
        LOG.info("  expected %r got %r", scene.caption, text)
    right = sum(scene.caption == text for scene, text in zip(scenes, texts, strict=True))
    return right / count


def rate_at(step: int, options: Options) -> float:
    """Return the learning rate: warm-up and constant for the vision tower, then with cosine decay."""
    if step < options.vision_steps:
        return options.rate * min(1.0, (step + 1) / 100)
    done = step - options.vision_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done / options.caption_steps)))
    return options.rate * min(1.0, (done + 1) / 200) * (0.01 + 0.99 * cosine)


def save_state(path: Path, step: int, trainee: Trainee, optimizer: torch.optim.Optimizer) -> None:
    """Write a resumable state and replace the old one when it is complete."""
    state = {"step": step, "model": trainee.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def restore(path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer) -> int:
    """Load the saved state if it exists, and return the next step."""
    if not path.exists():
        return 0
    state = torch.load(path)
    trainee.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def learn(
    trainee: Trainee, optimizer: torch.optim.Optimizer, batch: Batch, captioning: bool
) -> tuple[float, float]:
    """Run one step of the optimizer and return the vision and the caption loss before it."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens = trainee.blip.vision_model(batch.images).last_hidden_state
        vision = trainee.vision_loss(tokens, batch)
        caption = trainee.caption_loss(tokens, batch) if captioning else torch.zeros(())
    (caption + vision).backward()
    nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return vision.item(), caption.item()


def train(options: Options) -> None:
    """Train from the last saved state to the end, and save and log at intervals."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    words = Words(options.vocabulary)
    trainee = Trainee(words)
    optimizer = torch.optim.AdamW(trainee.parameters(), weight_decay=0.02, betas=(0.9, 0.98))
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "state.pt"
    start = restore(path, trainee, optimizer)
    total = start if options.export_only else options.vision_steps + options.caption_steps
    LOG.info("%s; %d ids in use; from step %d", asdict(options), len(words.used), start)
    losses, began = [], time.monotonic()
    for step in range(start, total):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options)
        batch = make_batch(step, options.batch, options.seed, words)
        captioning = step >= options.vision_steps
        losses.append(learn(trainee, optimizer, batch, captioning))
        done = step + 1
        if done % REPORT_EVERY == 0:
            vision, caption = torch.tensor(losses).mean(0).tolist()
            each = (time.monotonic() - began) / (done - start)
            LOG.info("step %d vision %.4f caption %.4f (%.3f s)", done, vision, caption, each)
            losses = []
        if done % options.save_every == 0 or done == total:
            save_state(path, done, trainee, optimizer)
            if captioning:
                shares = {split: exact(trainee, words, split, 200) for split in EVALUATED}
                LOG.info("step %d exact %s", done, json.dumps(shares))
    export(trainee.blip, words, options.out)


def parse() -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--vocabulary",
        type=Path,
        default=CHECKPOINT / "tokenizer.json",
        help="vocab.txt or tokenizer.json of bert-base-uncased",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("/tmp/scenes"), help="resumable state")
    parser.add_argument("--vision-steps", type=int, default=1500)
    parser.add_argument("--caption-steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument(
        "--export-only", action="store_true", help="export the saved state and stop"
    )
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(parse())
