"""Scenes, captions and splits of the embedded model, and the checkpoint that training writes."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor

import train_scenes
from scenes import dataset, evaluate, model

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "models" / "scenes" / "checkpoint"
TOKENIZER = CHECKPOINT / "tokenizer.json"
NEW_TOKENS = 20  # the default of generate(), [SEP] included


def combinations(split: str, count: int) -> set[tuple[str, ...]]:
    return {dataset.make_scene(split, index).combination for index in range(count)}


@pytest.mark.parametrize("split", ["heldout", "unseen"])
def test_no_combination_of_a_held_out_split_occurs_in_training(split: str) -> None:
    held_out = combinations(split, 2_000)
    assert len(held_out) > 300
    assert not held_out & combinations("train", 30_000)


def test_held_out_pairs_do_not_occur_in_training_on_any_background() -> None:
    pairs = set(dataset.held_out_pairs())
    trained = {combination[:-1] for combination in combinations("train", 30_000)}
    tested = {combination[:-1] for combination in combinations("heldout", 2_000)}
    assert len(pairs) >= 40
    assert not pairs & trained
    assert len(pairs & tested) >= 40


def test_every_object_and_every_background_occurs_in_training() -> None:
    trained = combinations("train", 5_000)
    assert {name for combination in trained for name in combination[:-1]} == set(dataset.OBJECTS)
    assert {combination[-1] for combination in trained} == set(dataset.BACKGROUNDS)


def test_the_unseen_style_does_not_occur_in_training() -> None:
    styles = {dataset.make_scene("train", index).style for index in range(2_000)}
    assert styles == set(dataset.TRAIN_STYLES)
    assert dataset.make_scene("unseen", 0).style == dataset.UNSEEN_STYLE not in styles


def test_captions_name_the_left_and_the_upper_object_first() -> None:
    scenes = [dataset.make_scene("train", index) for index in range(2_000)]
    assert {scene.kind for scene in scenes} == {"one", "two", "three", "next to", "above"}
    for scene in scenes:
        first, last = scene.placements[0], scene.placements[-1]
        subject = scene.caption.removesuffix(f"{scene.background} background")
        if scene.kind == "next to":
            assert first.left + first.size <= last.left + 2 * dataset.JITTER
            assert abs(first.top - last.top) < dataset.CELL // 2
        elif scene.kind == "above":
            assert first.top + first.size <= last.top + 2 * dataset.JITTER
            assert abs(first.left - last.left) < dataset.CELL // 2
        else:
            count = {"one": 1, "two": 2, "three": 3}[scene.kind]
            assert len(scene.placements) == count and len(scene.names) == 1
            continue
        assert subject.index(first.name) < subject.rindex(last.name)


def test_a_scene_renders_to_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib\n"
        "from scenes import dataset as scenes\n"
        "digest = hashlib.sha256()\n"
        "for index in range(40):\n"
        "    scene = scenes.make_scene(scenes.SPLITS[index % 3], index)\n"
        "    digest.update(scene.caption.encode() + scenes.render(scene).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        digests.add(run.stdout)
    assert len(digests) == 1


def test_every_possible_caption_fits_the_tokenizer_and_the_default_length() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    subjects = [dataset.with_article(name) for name in dataset.OBJECTS]
    pairs = [
        f"{first} {kind} {second}"
        for first, second in permutations(subjects, 2)
        for kind in ("next to", "above")
    ]
    counts = [f"{n} {many}" for n in ("two", "three") for many in dataset.OBJECTS.values()]
    captions = [
        f"{subject} on {dataset.with_article(background)} background"
        for subject in subjects + counts + pairs
        for background in dataset.BACKGROUNDS
    ]
    assert {dataset.make_scene("train", index).caption for index in range(500)} <= set(captions)
    rows = tokenizer(captions, add_special_tokens=False).input_ids
    assert max(len(row) for row in rows) + 1 <= NEW_TOKENS
    assert not any(tokenizer.unk_token_id in row for row in rows)
    assert {piece for row in rows for piece in row} <= set(model.Words(TOKENIZER).used)


@pytest.mark.parametrize("style", [*dataset.TRAIN_STYLES, dataset.UNSEEN_STYLE])
def test_a_style_has_every_object_and_its_licence(style: str) -> None:
    folder = dataset.SPRITES / style
    assert {path.stem for path in folder.glob("*.png")} == set(dataset.OBJECTS)
    assert (folder / "LICENSE").is_file()
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 64), "RGBA")


def test_the_exported_checkpoint_computes_the_logits_of_the_trained_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = model.Words(TOKENIZER)
    trained = train_scenes.Trainee(words).blip.eval()
    for parameter in trained.parameters():
        parameter.data = (parameter + 0.05 * torch.randn_like(parameter)).half().float()
    model.export(trained, words, tmp_path)
    loaded = BlipForConditionalGeneration.from_pretrained(tmp_path)
    head = loaded.text_decoder.cls.predictions.decoder
    assert loaded.dtype == torch.float32
    assert head.weight is loaded.text_decoder.bert.embeddings.word_embeddings.weight
    assert BlipProcessor.from_pretrained(tmp_path).image_processor.size["height"] == dataset.SIDE

    images = torch.randn(2, 3, dataset.SIDE, dataset.SIDE)
    full = torch.tensor([[model.BOS, *words.pieces("a dog above a cat")]] * 2)
    compact = torch.tensor([[words.compact[piece] for piece in row] for row in full.tolist()])
    with torch.no_grad():
        expected = trained(pixel_values=images, input_ids=compact).logits
        logits = loaded(pixel_values=images, input_ids=full).logits
    torch.testing.assert_close(logits[..., words.used], expected, atol=1e-4, rtol=1e-4)
    never = torch.ones(logits.shape[-1], dtype=torch.bool)
    never[words.used] = False
    assert logits[..., never].max() < logits[..., words.used].min()


class InterruptError(Exception):
    """Ends a run as a kill does."""


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_scenes, "exact", lambda *_: 0.0)
    monkeypatch.setattr(train_scenes, "export", lambda *_: None)
    batch = train_scenes.make_batch
    options = train_scenes.Options(
        vocabulary=TOKENIZER,
        out=tmp_path,
        work=tmp_path / "whole",
        vision_steps=1,
        caption_steps=3,
        batch=4,
        rate=1e-3,
        seed=1,
        threads=torch.get_num_threads(),
        save_every=2,
        export_only=False,
    )
    train_scenes.train(options)

    def interrupt(step: int, *rest: object) -> train_scenes.Batch:
        if step == 3:
            raise InterruptError
        return batch(step, *rest)

    parts = replace(options, work=tmp_path / "parts")
    monkeypatch.setattr(train_scenes, "make_batch", interrupt)
    with pytest.raises(InterruptError):
        train_scenes.train(parts)
    monkeypatch.setattr(train_scenes, "make_batch", batch)
    train_scenes.train(parts)
    whole, resumed = (torch.load(o.work / "state.pt") for o in (options, parts))
    assert whole["step"] == resumed["step"] == 4
    for name, tensor in whole["model"].items():
        torch.testing.assert_close(resumed["model"][name], tensor, atol=0, rtol=0, msg=name)


def test_the_captions_of_the_sample_images_are_correct() -> None:
    captioner = evaluate.Captioner(CHECKPOINT)
    files = {sample.name: sample.index for sample in evaluate.SAMPLE_IMAGES}
    assert {path.name for path in evaluate.SAMPLES.iterdir()} == set(files)
    assert len({Path(name).suffix for name in files}) == 6
    for name, index in files.items():
        with Image.open(evaluate.SAMPLES / name) as image:
            pixels = image.convert("RGB")
        assert captioner([pixels]) == [dataset.make_scene("heldout", index).caption], name
