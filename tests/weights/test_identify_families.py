"""Every family's table, there and back: a model's tensors by the names of a source are found to be that model."""

import dataclasses

import pytest
import torch
from quick import spread

from vitrail import catalog
from vitrail.contracts import Denoiser
from vitrail.errors import CheckpointError
from vitrail.heads.linear import Classifier
from vitrail.recipe import Choice
from vitrail.weights.identify import identify
from vitrail.weights.published import load_table, lookup_by_source
from vitrail.weights.rules import revert
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.variants import differing

QUICK = {  # the smallest variants: of each family one, in one source
    "vit/tiny": "google", "deit/tiny_distilled": "transformers", "deit/3_small": "timm:3",
    "deit/3_small_384": "original:3", "deit/rope_small": "timm:rope",
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


@pytest.mark.parametrize("name", spread(QUICK, 9))
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


def test_rotations_that_no_tensor_shows_are_asked_for_or_read_from_the_name():
    state, _ = their_state("deit/rope_ape_small", "timm:rope")
    answers = "--model deit/3_small or --model deit/rope_ape_small says it"
    with pytest.raises(CheckpointError, match=rf"queries and keys are rotated as well\n{answers}"):
        identify(state)
    assert identify(state, given=Choice("deit/3_small")).model == Choice("deit/3_small", {})
    assert identify(state, given=Choice("deit/rope_ape_small")).model == Choice("deit/rope_ape_small", {})
    sidecar = Sidecar("timm", {"architecture": "vit_small_patch16_rope_ape_224"})
    assert identify(state, sidecar).model.name == "deit/rope_ape_small"
    mixed = {**state, "rope.freqs": torch.empty(2, 12, 6, 32, device="meta")}
    with pytest.raises(CheckpointError, match=r"nearest is deit/rope_ape_small read as timm:rope: unknown rope.freqs"):
        identify(mixed, Sidecar("timm", {"architecture": "vit_small_patch16_rope_mixed_ape_224"}))


def test_means_of_patches_do_not_show_their_heads_and_norms_behind_branches_not_themselves():
    import timm

    words = {
        "vit_base_patch16_gap_224": (r"number of attention heads\n--model.heads 12 or --model.heads 16", {"heads": 16}),
        "vit_base_patch16_rpn_224": (
            r"before it\n--model.norm-at branch or --model.norm-at pre",
            {"norm_at": "branch"},
        ),
    }
    for name, (question, keys) in words.items():
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        with pytest.raises(CheckpointError, match=question):
            identify(state)
        for found in (
            identify(state, Sidecar("timm", {"architecture": name})),
            identify(state, given=Choice("", keys)),
        ):
            assert found.model.keys.items() >= keys.items()


def test_towers_of_siglip_2_have_the_tanh_form_in_timm_too():
    forms = {"base_256": "erf", "base_32_256": "tanh", "so400m": "erf", "so400m_16_256": "tanh", "giant_256": "tanh",
             "large_384": "erf", "large_512": "tanh"}  # fmt: skip
    for variant, form in forms.items():
        found = identify(their_state(f"siglip/{variant}", "timm")[0])
        config = dataclasses.replace(catalog.find("models", found.model.name).config, **found.model.keys)
        assert (variant, config.gelu) == (variant, form)


def test_stages_of_a_swin_have_windows_of_their_own():
    import timm

    with torch.device("meta"):
        state = timm.create_model("swin_s3_tiny_224").state_dict()
        plain = timm.create_model("swin_s3_small_224").state_dict()
    assert identify(state).model == Choice("swin/tiny", {"window": (7, 7, 14, 7)})
    assert identify(plain).model.keys["window"] == 14


def test_names_of_timm_whose_tensors_do_not_show_what_they_compute_are_refused():
    state, _ = their_state("vit/tiny", "timm")
    with pytest.raises(CheckpointError, match="no model here is vit_tiny_patch16_rope_ape_224"):
        identify(state, Sidecar("timm", {"architecture": "vit_tiny_patch16_rope_ape_224"}))
    state = {n: t for n, t in state.items() if n != "pos_embed"}  # rotary positions have no table either
    with pytest.raises(CheckpointError, match=r"missing position.table"):
        identify(state)
