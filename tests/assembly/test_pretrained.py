"""Runs that begin with weights: what is taken, what is left, and what the weights know of their model and images."""

import dataclasses

import pytest
import tiny
import torch

import vitrail
from vitrail.errors import CheckpointError
from vitrail.inference import predictor
from vitrail.recipe import Choice, InitConfig, InputConfig, OptimConfig, Recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def before(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("before") / "run"
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 3}), out))
    return out


def after(data, before, **sections):
    return dataclasses.replace(tiny.recipe(data), model=Choice(), init=InitConfig(str(before)), **sections)


def weights(folder):
    return predictor.load_predictor(folder).model.state_dict()


def test_another_run_brings_model_head_and_images(data, before, tmp_path):
    running = tiny.begin(after(data, before), tmp_path / "run")
    old = predictor.load_predictor(before)
    assert running.load_report.fraction == 1.0
    assert running.recipe.model == old.recipe.model
    assert running.recipe.input == old.recipe.input
    for name, tensor in running.state.model.state_dict().items():
        assert torch.equal(tensor, old.model.state_dict()[name]), name


def test_other_classes_get_a_new_head_and_colour_widens_the_stem(before, tmp_path):
    running = tiny.begin(after(tiny.images(tmp_path / "images"), before), tmp_path / "run")
    assert running.recipe.input.channels == 3
    assert len(running.recipe.input.mean) == 3
    assert set(running.load_report.left_out) == {"heads.0.weight", "heads.0.bias"}
    assert any("patch_embed" in name for name in running.load_report.resized)
    old, new = weights(before), running.state.model.state_dict()
    assert torch.equal(new["backbone.blocks.0.attn.qkv.weight"], old["backbone.blocks.0.attn.qkv.weight"])
    tiny.finish(running)


def test_another_size_resamples_positions(data, before, tmp_path):
    running = tiny.begin(after(data, before, input=InputConfig(size=(20, 16))), tmp_path / "run")
    assert running.recipe.input.size == (20, 16)
    assert "backbone.position.table" in running.load_report.resized
    assert running.load_report.fraction == 1.0


@pytest.mark.parametrize(("head", "new"), [("keep", False), ("new", True), ("auto", False)])
def test_the_head_is_kept_or_begun_anew(head, new, data, before, tmp_path):
    recipe = dataclasses.replace(after(data, before), init=InitConfig(str(before), head=head))
    running = tiny.begin(recipe, tmp_path / "run")
    same = torch.equal(running.state.model.heads[0].weight, weights(before)["heads.0.weight"])
    assert same is not new


def test_a_head_for_other_classes_cannot_be_kept(before, tmp_path):
    recipe = dataclasses.replace(
        after(tiny.images(tmp_path / "images"), before), init=InitConfig(str(before), head="keep")
    )
    with pytest.raises(CheckpointError, match="3 other classes"):
        tiny.begin(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_published_file_says_what_it_is_and_brings_its_images(data, tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=32, num_heads=2, img_size=32, num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    start = InitConfig(str(tmp_path / "vit.safetensors"))
    recipe = dataclasses.replace(tiny.recipe(data), model=Choice(), init=start, input=InputConfig())
    with pytest.raises(CheckpointError, match=r"number of attention heads(.|\n)*--model.heads 1 or --model.heads 2"):
        tiny.begin(recipe, tmp_path / "run")
    recipe = dataclasses.replace(recipe, model=Choice("", {"heads": 2}))
    running = tiny.begin(recipe, tmp_path / "run")
    assert running.load_report.source == "timm"
    assert running.recipe.model.name == "vit/tiny"
    assert running.recipe.input.size == (32, 32)
    assert running.recipe.input.channels == 3, "grey images are made colour, not the weights grey"
    assert len(running.recipe.input.mean) == 3
    assert torch.equal(running.state.model.backbone.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)


def test_the_hidden_layer_of_the_head_goes_with_it(data, before, tmp_path):
    first = dataclasses.replace(
        tiny.recipe(data, model={"pre_logits": 8}), train=tiny.recipe(data, train={"steps": 1}).train
    )
    tiny.finish(tiny.begin(first, tmp_path / "before"))
    kept = tiny.begin(after(data, tmp_path / "before"), tmp_path / "kept")
    assert kept.load_report.fraction == 1.0
    recipe = dataclasses.replace(
        after(data, tmp_path / "before"),
        model=Choice("", {"pre_logits": 0}),
        init=InitConfig(str(tmp_path / "before"), head="new"),
    )
    left = tiny.begin(recipe, tmp_path / "left").load_report.left_out
    assert set(left) == {"heads.0.weight", "heads.0.bias", "backbone.pre_logits.0.weight", "backbone.pre_logits.0.bias"}


def test_frozen_weights_stay_those_of_the_file(data, before, tmp_path):
    recipe = after(data, before, optim=OptimConfig(freeze="backbone", lr=0.1))
    tiny.finish(tiny.begin(recipe, tmp_path / "run"))
    old, new = weights(before), weights(tmp_path / "run")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"heads.0.weight", "heads.0.bias"}


def test_a_resumed_run_does_not_begin_again(data, before, tmp_path):
    recipe = after(data, before)
    tiny.finish(tiny.begin(recipe, tmp_path / "whole"))
    from vitrail.training import loop

    for event in loop.run_training(tiny.begin(recipe, tmp_path / "broken")):
        if event.kind == "saved" and event.step == 6:
            break
    tiny.finish(tiny.again(tmp_path / "broken"))
    assert tiny.digest(tmp_path / "whole" / "model.safetensors") == tiny.digest(
        tmp_path / "broken" / "model.safetensors"
    )


def test_an_imported_folder_can_be_begun_with(data, tmp_path):
    made = vitrail.create("vit/nano", classes=3, channels=1, size=12, patch=4, depth=1, width=16, heads=2)
    vitrail.save(made, tmp_path / "folder")
    running = tiny.begin(after(data, tmp_path / "folder"), tmp_path / "run")
    assert running.load_report.fraction == pytest.approx(1.0)
    assert running.recipe.model == Choice("vit/nano", made.origin.keys) or isinstance(running.recipe, Recipe)


def test_weights_keep_their_patch_at_any_size(tmp_path):
    made = vitrail.create("vit/tiny", classes=2, size=(48, 48), depth=1, width=16, heads=2)
    vitrail.save(made, tmp_path / "folder")
    for size in (None, (32, 32), (24, 40)):
        recipe = after(tiny.images(tmp_path / f"images{size}"), tmp_path / "folder", input=InputConfig(size=size))
        running = tiny.begin(recipe, tmp_path / f"run{size}")
        assert running.recipe.input.size == (size or (48, 48))
        assert running.state.model.backbone.config.patch == 16
        assert not any("patch_embed" in name for name in running.load_report.resized)
    typed = dataclasses.replace(after(tmp_path / "imagesNone", tmp_path / "folder"), model=Choice("", {"patch": 8}))
    assert tiny.begin(typed, tmp_path / "typed").state.model.backbone.config.patch == 8


def test_what_was_typed_of_the_input_is_kept_though_it_is_the_default(data, before, tmp_path):
    made = vitrail.create("vit/nano", classes=3, channels=1, size=12, patch=4, depth=1, width=16, heads=2)
    with_input = InputConfig((12, 12), 1, (0.4,), (0.2,), "crop", 0.95, "bicubic", (0, 0, 0))
    bundle = dataclasses.replace(predictor.load_predictor(vitrail.save(made, tmp_path / "plain")).bundle)
    recipe = dataclasses.replace(bundle.recipe, input=with_input)
    vitrail.save(dataclasses.replace(predictor.load_predictor(tmp_path / "plain"), recipe=recipe), tmp_path / "folder")
    kept = tiny.begin(after(data, tmp_path / "folder"), tmp_path / "kept").recipe.input
    assert (kept.crop_ratio, kept.interpolation, kept.background) == (0.95, "bicubic", (0, 0, 0))
    typed = InputConfig(crop_ratio=0.875, interpolation="bilinear", background=(255, 255, 255))
    changed = tiny.begin(after(data, tmp_path / "folder", input=typed), tmp_path / "changed").recipe.input
    assert (changed.crop_ratio, changed.interpolation, changed.background) == (0.875, "bilinear", (255, 255, 255))
    assert changed.mean == (0.4,)


def test_a_published_file_shows_its_patch_and_the_size_of_its_images(data, tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    shape = {"depth": 1, "embed_dim": 16, "num_heads": 2, "num_classes": 7}
    theirs = timm.create_model("vit_tiny_patch16_224", patch_size=8, img_size=40, **shape)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    start, keys = InitConfig(str(tmp_path / "vit.safetensors")), {"depth": 1, "width": 16, "heads": 2}
    recipe = dataclasses.replace(tiny.recipe(data), model=Choice("vit/tiny", keys), init=start)
    running = tiny.begin(recipe, tmp_path / "run")
    assert running.recipe.input.size == (40, 40)
    assert running.state.model.backbone.config.patch == 8
    assert running.load_report.resized == {}
