"""Runs on latents: an autoencoder of diffusers' in a folder, latents computed once, and images decoded at the end."""

import dataclasses
import json
import shutil
import sys

import pytest
import tiny
import torch
from places import must, vitrail
from safetensors.torch import load_file, save_file

from vitrail.assembly import latents
from vitrail.assembly.autoencoder import open_autoencoder
from vitrail.assembly.model import build_preprocess
from vitrail.assembly.prepare import prepare_run
from vitrail.data.transforms.latents import LatentTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.processes.world import World
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference import predictor
from vitrail.recipe import (
    AugmentConfig,
    Choice,
    DataConfig,
    EvalConfig,
    InputConfig,
    OptimConfig,
    Recipe,
    RuntimeConfig,
    TrainConfig,
)
from vitrail.training import loop as runs

diffusers = pytest.importorskip("diffusers", reason="autoencoders need diffusers")
SIDE, FACTOR, CHECKPOINT = 32, 2, 4


def save(folder, seed=0, **keys):
    torch.manual_seed(seed)
    made = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_size=SIDE,
        **{"scaling_factor": 0.5, "shift_factor": 0.25, **keys},
    ).eval()  # fmt: skip
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    save(root / "vae")
    save(root / "other", seed=1)
    tiny.images(root / "data", each=10, size=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "SHARD", 5)  # so that there are several files
        yield root


def recipe(place, **changes):
    made = Recipe(
        model=Choice("dit/nano", {"width": 16, "depth": 2, "heads": 2}),
        data=DataConfig("", {"path": str(place / "data")}),
        input=InputConfig(vae=str(place / "vae")),
        optim=OptimConfig(lr=3e-3, ema_decay=0.9, ema_decay_2=0.2, warmup_steps=0),
        train=TrainConfig(steps=6, batch_size=8, precision="fp32", eval_every=3),
        runtime=RuntimeConfig(micro_batch=8, workers=0, save_every=3, log_every=1),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def run(place):
    tiny.finish(tiny.begin(recipe(place), place / "whole"))
    return place / "whole"


def test_there_and_back_as_diffusers_does_it(tmp_path):
    theirs, ours = save(tmp_path / "vae"), open_autoencoder(tmp_path / "vae")
    x, z = torch.rand(11, 3, SIDE, SIDE) * 2 - 1, torch.randn(3, 4, 16, 16)
    with torch.no_grad():
        said, back = theirs.encode(x).latent_dist, theirs.decode(z / 0.5 + 0.25).sample
    moments = ours.encode_distribution(x)
    torch.testing.assert_close(moments[:, 0], (said.mean - 0.25) * 0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments[:, 1], said.std * 0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.decode(z), back, rtol=1e-4, atol=1e-5)
    assert (ours.channels, ours.latents, ours.factor) == (3, 4, FACTOR)


def test_the_hash_is_that_of_weights_and_config(tmp_path):
    made = save(tmp_path / "a")
    made.save_pretrained(tmp_path / "again")
    save(tmp_path / "pipeline/vae")
    save(tmp_path / "scaled", scaling_factor=0.6)
    save(tmp_path / "other", seed=1)
    first, *others = (open_autoencoder(tmp_path / name).hash for name in ("a", "again", "pipeline", "scaled", "other"))
    assert [hash == first for hash in others] == [True, True, False, False]
    with pytest.raises(CheckpointError, match="another autoencoder"):
        open_autoencoder(tmp_path / "other", wanted=first)


def test_what_is_no_autoencoder_is_told(tmp_path, monkeypatch):
    save(tmp_path / "vae")
    weights = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    for change, said in (
        (lambda: None, ""),
        (
            lambda: save_file({k: v for k, v in load_file(weights).items() if "encoder.conv_in" not in k}, weights),
            "do not fit its config",
        ),
        (lambda: weights.write_bytes(weights.read_bytes()[:1000]), "cannot be read"),
        (lambda: (tmp_path / "vae/config.json").write_text('{"_class_name": "UNet2DModel"}'), "a UNet2DModel"),
        (lambda: (tmp_path / "vae/config.json").write_text("{"), "is damaged"),
        (lambda: (tmp_path / "vae/config.json").unlink(), "no config.json"),
    ):
        change()
        if said:
            with pytest.raises(CheckpointError, match=said):
                open_autoencoder(tmp_path / "vae")
        else:
            open_autoencoder(tmp_path / "vae")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UsageError, match=r"vitrail\[diffusers\]"):
        open_autoencoder(tmp_path / "vae")


def test_chance_draws_a_mirror_image_and_a_latent_of_it():
    moments = torch.stack(
        [torch.stack([torch.full((4, 2, 2), mean), torch.full((4, 2, 2), 0.1)]) for mean in (-5.0, 5.0)]
    ).numpy()
    drawn = LatentTransform(Preprocess((4, 4), 3, (0.5,) * 3, (0.5,) * 3), seed=3)
    found = torch.stack([drawn.image(moments, epoch, index) for epoch in range(10) for index in range(20)])
    assert torch.equal(found[23], drawn.image(moments, 1, 3)), "by (seed, epoch, image) alone"
    assert float((found.mean((1, 2, 3)) > 0).float().mean()) == pytest.approx(0.5, abs=0.12)
    assert float((found.abs() - 5).std()) == pytest.approx(0.1, rel=0.1)
    still = dataclasses.replace(drawn, is_random=False)
    assert (still.image(moments, 0, 7) == -5).all(), "judged by the mean of the image itself"


def test_a_run_learns_latents_and_resumes_to_the_bit_past_a_torn_file(place, run):
    chosen = predictor.load_predictor(run).recipe
    assert (chosen.input.size, chosen.model.keys["size"], chosen.model.keys["channels"]) == ((SIDE, SIDE), [16, 16], 4)
    assert chosen.input.vae_hash == open_autoencoder(place / "vae").hash
    shelves = sorted((place / "latents").iterdir())
    assert len(shelves) == 2, "what is trained on with mirror images, what judges without"
    running = tiny.begin(recipe(place), place / "cut")
    assert sum("all cached already" in note for note in running.notes) == 2, "runs share them"
    stepping = runs.run_training(running)
    next(e for e in stepping if e.kind == "saved")
    stepping.close()
    torn = next(place.glob("latents/*/00001.safetensors"))
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-7])
    again = tiny.again(place / "cut")
    assert any("computed again" in note and torn.name in note for note in again.notes)
    assert torn.read_bytes() == whole
    tiny.finish(again)
    for file in ("model.safetensors", "ema2.safetensors"):
        assert tiny.digest(run / file) == tiny.digest(place / "cut" / file)
    assert str(place) not in (run / "model.safetensors").read_bytes()[:20000].decode(errors="replace"), (
        "no path in what is passed on"
    )


def test_latents_are_what_the_autoencoder_says_of_the_images(place):
    running = tiny.begin(recipe(place, augment=AugmentConfig(vflip=True)), place / "mirrored")
    split, pre, vae = running.dataset.splits["train"], running.preprocess, open_autoencoder(place / "vae")
    plain = prepare_run(recipe(place), tiny.ALONE).dataset.splits["train"]
    assert split.names == plain.names
    for i in (0, 4, 5, len(split) - 1):
        x = pre.batch(pre.image(plain.read(i))[None])
        for kept, axes in zip(split.read(i), ((), (3,), (2,), (2, 3)), strict=True):
            torch.testing.assert_close(
                torch.from_numpy(kept), vae.encode_distribution(x.flip(axes))[0], rtol=1e-3, atol=1e-4
            )


def test_every_process_computes_files_of_its_own(place, tmp_path):
    made = prepare_run(recipe(place), tiny.ALONE)
    split, pre, vae = made.dataset.splits["train"], build_preprocess(made.recipe.input), open_autoencoder(place / "vae")
    about = latents.describe_latents(vae.hash, pre, [()], made.dataset, split)
    shelf = latents.LatentCache(tmp_path, about, vae, pre, [()])
    counts, seen = [], []
    for rank in (0, 1):
        counts.append(
            shelf.fill(split, World(rank, 2, torch.device("cpu")), lambda done, of: seen.append((done, of)))[0]
        )
    assert 0 < counts[0] < len(split)
    assert sum(counts) == len(split) == sum(len(latents.unpack(file)[0]["moments"]) for file in shelf.folder.iterdir())
    assert seen[-1] == (counts[1], counts[1])
    assert shelf.fill(split, tiny.ALONE, None) == (0, [])
    assert latents.describe_latents(vae.hash, pre, [(), (3,)], made.dataset, split) != about


def test_images_are_decoded_by_the_same_autoencoder_wherever_it_lies(place, run, tmp_path):
    made = predictor.load_predictor(run).sample(["ant"], count=2, steps=3)
    assert made.shape == (2, SIDE, SIDE, 3)
    assert (predictor.load_predictor(run, average=2).sample(["ant"], count=2, steps=3) != made).any()
    moved = shutil.copytree(place / "vae", tmp_path / "moved")
    lost = shutil.copytree(run, tmp_path / "run")
    text = (lost / "recipe.toml").read_text()
    (lost / "recipe.toml").write_text(text.replace(str(place / "vae"), str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match=r"not at .* any more"):
        predictor.load_predictor(lost).sample(["ant"], count=1, steps=2)
    with pytest.raises(CheckpointError, match="does not name the folder"):
        predictor.load_predictor(run / "model.safetensors").sample(["ant"], count=1, steps=2)
    for source in (lost, run / "model.safetensors"):
        assert (predictor.load_predictor(source, vae=str(moved)).sample(["ant"], count=2, steps=3) == made).all()
    code, _, err = vitrail(
        "sample", lost, "--vae", place / "other", "--count", 1, "--steps", 2, "--out", tmp_path / "never"
    )
    assert code == CHECKPOINT
    assert "another autoencoder" in err
    assert not (tmp_path / "never").exists()
    again = tiny.again(lost, [("input", {"vae": str(moved)}), ("runtime", {"latents_dir": str(place / "latents")})])
    assert again.recipe.input.vae == predictor.load_predictor(lost).recipe.input.vae == str(moved), (
        "and a run remembers it"
    )
    with pytest.raises(CheckpointError, match="another autoencoder"):
        tiny.again(lost, [("input", {"vae": str(place / "other")})])


def test_eval_encodes_what_it_judges_by(run):
    said = json.loads(must("eval", run, "--json"))
    kept = json.loads((run / f"evaluation/{said['part']}.json").read_text())
    assert said["held_out_loss"] == pytest.approx(kept["held_out_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"model": Choice("vit/nano")}, UsageError, "for generative models"),
        ({"model": Choice("dit/nano", {"channels": 3})}, UsageError, "model.channels is 3"),
        ({"model": Choice("dit/nano", {"size": [8, 8]})}, UsageError, r"model.size is \[8, 8\]"),
        ({"augment": AugmentConfig(crop="random")}, UsageError, "latents are computed once"),
        ({"input": InputConfig(vae="nowhere")}, CheckpointError, "no autoencoder in"),
        ({"input": InputConfig(vae_hash="0" * 64)}, CheckpointError, "its autoencoder was not given"),
    ],
)
def test_what_cannot_be_is_told(changes, kind, said, place, tmp_path):
    with pytest.raises(kind, match=said):
        tiny.begin(recipe(place, **changes), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_choices_for_latents(place):
    whole = InputConfig(vae=str(place / "vae"), size=(31, 32))
    with pytest.raises(UsageError, match="--img-size 32 32"):
        prepare_run(recipe(place, input=whole), tiny.ALONE)
    jit = prepare_run(recipe(place, model=Choice("jit/nano")), tiny.ALONE).recipe
    assert (jit.task.keys["objective"], jit.model.keys["channels"]) == ("flow", 4)
    assert (
        prepare_run(recipe(place, model=Choice(), task=Choice("diffusion")), tiny.ALONE).recipe.model.name == "dit/nano"
    )


def test_moments_copies_and_a_judge_see_images_not_latents(place, tmp_path, monkeypatch):
    from vitrail.evaluation.generation import copying
    from vitrail.training import samples

    monkeypatch.setattr(samples, "SHARE", 100.0)
    tiny.finish(
        tiny.begin(
            tiny.recipe(place / "data", train={"steps": 2, "eval_every": 0}, runtime={"cache_images": True}),
            tmp_path / "judge",
        )
    )
    made = recipe(place, train=TrainConfig(steps=4, batch_size=8, precision="fp32", eval_every=2))
    made = dataclasses.replace(made, eval=EvalConfig(str(tmp_path / "judge")))
    events = tiny.finish(tiny.begin(made, tmp_path / "run"))
    assert [e.values["frechet"] > 0 for e in events if e.kind == "eval"] == [True, True]
    (found,) = copying.read_copying(tmp_path / "run/evaluation")
    assert found.images.shape[1:] == (1 + copying.NEIGHBOURS, SIDE, SIDE, 3)
    assert len(list((tmp_path / "run/evaluation/snapshots").iterdir())) == 3
    again = predictor.load_predictor(tmp_path / "run")
    assert again.sample(count=1, steps=2).shape == (2, SIDE, SIDE, 3)
