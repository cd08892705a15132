"""Repeats, mixing, growing sizes, balanced classes and kept images together: the same batches on any machine, after any
stop."""

from dataclasses import replace

import pytest
import tiny
import torch

from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.recipe import InputConfig
from vitrail.training import loop, session
from vitrail.training.steps import remaining_batches

AUGMENT = {
    "auto_augment": "3-augment",
    "color_jitter": 0.3,
    "crop": "random",
    "hflip": True,
    "repeated_aug": 2,
    "mix_prob": 0.8,
    "cutmix_prob": 0.4,
}
TRAIN = {"start_size": (8, 8), "full_size_at": 0.75}
DATA = {"sampler": "balanced"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.images(tmp_path_factory.mktemp("data") / "images", each=12, size=20)


def made(folder, augment=(), train=(), runtime=()):
    augment, train = {**AUGMENT, **dict(augment)}, {**TRAIN, **dict(train)}
    return replace(
        tiny.recipe(folder, data=DATA, augment=augment, train=train, runtime=runtime), input=InputConfig(size=(16, 16))
    )


def batches(running, processes=1, micro=8):
    """The global batches as they go into the model, by whichever number of processes and pieces: per step (images,
    targets)."""
    shares = []
    feed = running.feed
    running.feed = replace(feed, per_process=16 // processes, micro_batch=micro)
    for rank in range(processes):
        running.world = World(rank, processes, tiny.ALONE.device)
        steps = [
            [running.feed.prepare(piece, step) for piece in pieces]
            for step, pieces in enumerate(remaining_batches(running))
        ]
        shares.append(
            [(torch.cat([b.inputs for b in parts]), torch.cat([b.targets for b in parts])) for parts in steps]
        )
    running.feed, running.world = feed, tiny.ALONE
    return [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*shares, strict=True)]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("each", ["batch", pytest.param("pair", marks=pytest.mark.slow)])
def test_processes_pieces_workers_and_cache_change_no_batch(each, folder, tmp_path):
    running = tiny.begin(made(folder, {"mix_mode": each}), tmp_path / "run")
    wanted = batches(running)
    assert [images.shape[2] for images, _ in wanted] == [8] * 4 + [12] * 4 + [16] * 4
    assert len({float(images.sum()) for images, _ in wanted}) == 12
    for processes, micro in ((1, 16), (2, 4), (4, 2), (4, 4)):
        assert same(batches(running, processes, micro), wanted)
    running.workers = 2
    assert same(batches(running), wanted)
    kept = tiny.begin(made(folder, {"mix_mode": each}, runtime={"cache_images": True}), tmp_path / "kept")
    assert any("cached in memory" in note for note in kept.notes)
    for workers in (0, 2):
        kept.workers = workers
        assert same(batches(kept), wanted)


def test_a_run_that_was_stopped_ends_in_the_same_bytes(folder, tmp_path):
    tiny.finish(tiny.begin(made(folder), tmp_path / "whole"))
    for event in loop.run_training(tiny.begin(made(folder), tmp_path / "stopped")):
        if (event.kind, event.step) == ("saved", 6):
            break
    running = tiny.again(tmp_path / "stopped", [("runtime", {"cache_images": True, "micro_batch": 8})])
    assert running.state.step == 6
    assert [note for note in running.notes if "cached in memory" in note], "resuming tells of the cache too"
    tiny.finish(running)
    assert tiny.digest(tmp_path / "stopped/model.safetensors") == tiny.digest(tmp_path / "whole/model.safetensors")


def test_an_epoch_is_as_long_with_repeats_as_without(folder, tmp_path):
    """As in DeiT: fewer different images, not more steps."""
    steps = [
        tiny.begin(
            made(folder, {"repeated_aug": r}, {"steps": None, "epochs": 4}), tmp_path / str(r)
        ).recipe.train.steps
        for r in (1, 2)
    ]
    assert steps[0] == steps[1]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"augment": {"randaugment_ops": 2}}, "replaces RandAugment"),
        ({"augment": {"repeated_aug": 5}}, "fewer than 4 different images"),
        ({"train": {"start_size": (24, 16)}}, "more than input.size"),
        ({"train": {"full_size_at": 0.0}}, "no step would use it"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused_before_anything_is_written(what, said, folder, tmp_path):
    with pytest.raises(UsageError, match=said):
        tiny.begin(made(folder, **what), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("auto_augment", "autoaugment"), ("color_jitter", 0.2), ("randaugment_ops", 1)]
)
def test_what_is_defined_for_colours_is_refused_for_other_channels(name, value, tmp_path):
    data = tiny.npz(tmp_path / "data", channels=4)
    with pytest.raises(UsageError, match=rf"augment\.{name}.* is defined for grey and RGB images, and these have 4"):
        tiny.begin(tiny.recipe(data, augment={name: value}), tmp_path / "run")
    tiny.begin(tiny.recipe(data), tmp_path / "plain")


def test_balance_needs_one_class_an_image(tmp_path):
    data = tiny.npz(tmp_path / "data", multi=True)
    with pytest.raises(UsageError, match="several classes each"):
        tiny.begin(tiny.recipe(data, data={"sampler": "balanced"}), tmp_path / "run")


def test_a_model_that_cannot_take_a_size_says_so_before_the_first_step(folder, tmp_path, monkeypatch):
    from vitrail.models.vit import ViT

    forward = ViT.forward

    def choosy(self, images):
        if images.shape[2] < 12:
            raise ValueError("a side of at least 12 is needed")
        return forward(self, images)

    monkeypatch.setattr(ViT, "forward", choosy)
    with pytest.raises(
        UsageError,
        match=r"vit/nano cannot be trained on images of 8x8, for train\.start_size: a side of at least 12",
    ):
        tiny.begin(made(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert tiny.begin(made(folder, train={"start_size": (12, 12)}), tmp_path / "run").state.model.training
    assert session.RunFolder(tmp_path / "run").recipe().train.start_size == (12, 12)
