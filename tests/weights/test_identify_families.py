"""Every family's table, there and back: a model's tensors by the names of a source are found to be that model."""

import dataclasses

import pytest
import torch

from vitrail import catalog
from vitrail.contracts import Denoiser
from vitrail.errors import CheckpointError
from vitrail.heads.linear import Classifier
from vitrail.weights.identify import identify
from vitrail.weights.published import load_table, lookup_by_source
from vitrail.weights.rules import revert
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.variants import differing

QUICK = {  # the smallest variants: of each family one, in one source
    "vit/tiny": "google", "deit/tiny_distilled": "transformers", "deit/3_small": "original:3",
    "hybrid/r26_small": "timm",
    "swin/tiny": "torchvision", "pvt/tiny": "original", "pvt_v2/b0": "transformers", "pvt_v2/b2_li": "timm",
    "crossvit/9_dagger": "original", "efficientvit/b0": "timm", "efficientvit/l1": "original_large",
    "efficientvit_msra/m1": "original", "mobilevit/xxs": "transformers", "resnet/18": "transformers",
    "dit/small_2": "original", "jit/tiny": "original:net",
}  # fmt: skip


def their_state(name, source):
    """The tensors of one of our models by the names of a source, on the meta device; and its config."""
    entry, info = catalog.find("models", name), load_table(name.partition("/")[0])
    settings = lookup_by_source(info.settings, source, {})
    config = dataclasses.replace(entry.config, **{k: v for k, v in settings.items() if k in vars(entry.config)})
    with torch.device("meta"):
        trunk = entry.module.build(config)
        net = trunk if isinstance(trunk, Denoiser) else Classifier(trunk, 7)
        state = {n.removeprefix("backbone."): t for n, t in net.state_dict().items() if t.numel()}
        state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
        heads = config.heads if "heads" in vars(config) and isinstance(config.heads, int) else 0
        return revert(state, info.sources[source], heads), config


def same_config(name, source):
    state, config = their_state(name, source)
    found = identify(state)
    entry = catalog.find("models", found.model.name)
    different = differing(dataclasses.replace(entry.config, **found.model.keys), vars(config))
    return found, {k: v for k, v in different.items() if k not in ("classes", "drop_path", "dropout", "init")}


@pytest.mark.parametrize("name", QUICK)
def test_a_model_is_found_again_by_the_names_of_a_source(name):
    found, different = same_config(name, QUICK[name])
    assert (found.model.name, different) == (name, {})
    assert found.outputs == (0 if name.startswith(("dit", "jit")) else 7)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "pvt", "pvt_v2", "crossvit", "efficientvit", "mobilevit", "resnet", "dit"])
def test_every_variant_is_found_again_in_every_source(family):
    variants = catalog.load_module("models", family).VARIANTS
    for variant in variants:
        for source in load_table(family).sources:
            try:
                their_state(f"{family}/{variant}", source)
            except CheckpointError:
                continue  # a source that has no such model, as "original_large" of the base plan
            found, different = same_config(f"{family}/{variant}", source)
            assert (found.model.name, different) == (f"{family}/{variant}", {}), source


def test_both_windows_of_a_swin_v2_are_named_and_each_word_decides():
    state, _ = their_state("swin_v2/tiny_w16", "timm")
    answers = r"--model swin_v2/tiny_w8 or --model swin_v2/tiny_w16"
    with pytest.raises(CheckpointError, match=rf"nothing in the file says the window(.|\n)*{answers}"):
        identify(state)
    buffer = {"layers.0.blocks.0.attn.relative_position_index": torch.empty(256, 256, device="meta")}
    sidecars = {
        "timm": {"architecture": "swinv2_tiny_window16_256"},
        "transformers": {"model_type": "swinv2", "window_size": 16, "image_size": 256},
    }
    for library, config in sidecars.items():
        assert identify(state, Sidecar(library, config)).model.name == "swin_v2/tiny_w16"
    assert identify({**state, **buffer}).model.name == "swin_v2/tiny_w16"


def test_a_mean_beside_a_class_token_is_said_by_the_file_of_timm():
    state, _ = their_state("vit/tiny", "timm")
    config = {"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}
    assert identify(state, Sidecar("timm", config)).model.keys["pool"] == "mean"
    assert "pool" not in identify(state, Sidecar("timm", {**config, "global_pool": "token"})).model.keys


def test_names_of_timm_whose_tensors_do_not_show_what_they_compute_are_refused():
    state, _ = their_state("vit/tiny", "timm")
    with pytest.raises(CheckpointError, match="no model here is vit_tiny_patch16_rope_ape_224"):
        identify(state, Sidecar("timm", {"architecture": "vit_tiny_patch16_rope_ape_224"}))
    state = {n: t for n, t in state.items() if n != "pos_embed"}  # rotary positions have no table either
    with pytest.raises(CheckpointError, match=r"missing position.table"):
        identify(state)
