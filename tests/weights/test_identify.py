"""What a file is, from names and shapes: plain ViTs of timm, on the meta device."""

from pathlib import Path

import pytest
import torch
from quick import every_third

from vitrail.errors import CheckpointError
from vitrail.recipe import Choice
from vitrail.weights.identify import identify
from vitrail.weights.read import read_weights
from vitrail.weights.sidecars import Sidecar

NAMES = {
    "vit_tiny_patch16_224": ("vit/tiny", {}),
    "vit_base_patch16_384": ("vit/base", {"size": (384, 384)}),
    "vit_small_patch32_224": ("vit/small", {"patch": 32}),
    "deit_tiny_distilled_patch16_224": ("deit/tiny_distilled", {}),
    "deit3_small_patch16_224": ("deit/3_small", {}),
    "vit_small_patch14_reg4_dinov2": (
        "vit/small",
        {"patch": 14, "registers": 4, "layer_scale": 1e-5, "position_tokens": False, "size": (518, 518)},
    ),
}


@pytest.mark.parametrize("name", every_third(NAMES))
def test_names_and_shapes_say_what_a_file_of_timm_is(name):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    found = identify(state)
    keys = {k: v for k, v in found.model.keys.items() if k != "position_resampling"}
    assert (found.model.name, keys) == NAMES[name]
    assert found.source.startswith("timm")
    assert found.outputs == (0 if "dinov2" in name else 1000)


BARE = {  # mean of a file with nothing beside it, and a word of the reason
    "vit_tiny_patch16_224": (0.5, r"those of DeiT, DINO and MAE have the same tensors and need --input.mean 0.485 "),
    "vit_small_patch14_dinov2": (0.485, "as is usual for timm:dinov2"),
    "vit_wee_patch16_reg1_gap_256": (0.5, "without a class token"),
    "beit_base_patch16_224": (
        0.5,
        r"BEiT v2 have the same tensors and need --input.mean 0.485 0.456 0.406 --input.std ",
    ),
    "vit_small_patch16_dinov3": (0.485, r"need --input.mean 0.43 0.411 0.296 --input.std 0.213 0.156 0.143"),
    "vit_base_patch32_siglip_gap_256": (0.5, "as is usual for timm:gap"),
}


@pytest.mark.parametrize("name", every_third(BARE))
def test_a_bare_file_says_whose_mean_and_std_it_is_given(name):
    import timm

    with torch.device("meta"):
        found = identify(timm.create_model(name).state_dict())
    assert found.input.mean[0] == BARE[name][0]
    assert BARE[name][1] in found.input_reason


def test_a_bare_file_without_a_head_is_of_dino_or_mae_and_one_without_biases_of_miil():
    with_head, none = tiny_state(), {n: t for n, t in tiny_state().items() if not n.startswith("head.")}
    given = Choice("", {"heads": 2})
    assert identify(with_head, given=given).input.mean == (0.5,) * 3
    found = identify(none, given=given)
    assert found.input.mean == (0.485, 0.456, 0.406)
    assert "those of Google's ViTs have the same tensors and need --input.mean 0.5 0.5 0.5" in found.input_reason
    assert identify(tiny_state(qkv_bias=False), given=given).input.mean == (0.0,) * 3
    sidecar = Sidecar("timm", {"architecture": "mine", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]})
    assert identify(none, sidecar, given).input_reason == "as the file beside them says"


def tiny_state(**keys):
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        return VisionTransformer(
            **{"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5, **keys}
        ).state_dict()


def test_both_answers_are_named_where_nothing_says_the_heads():
    with pytest.raises(CheckpointError, match=r"number of attention heads(.|\n)*--model.heads 1 or --model.heads 2"):
        identify(tiny_state())
    assert identify(tiny_state(), given=Choice("", {"heads": 2})).model.keys["heads"] == 2
    sidecar = Sidecar("timm", {"architecture": "mine", "model_args": {"num_heads": 2, "img_size": 32}})
    assert identify(tiny_state(), sidecar).model.keys["heads"] == 2


def test_a_model_of_another_size_is_answered_with_that_of_the_weights():
    import timm

    with torch.device("meta"):
        state = timm.create_model("vit_tiny_patch16_224").state_dict()
    with pytest.raises(CheckpointError, match=r"weights of vit/tiny, not of vit/base(.|\n)*--model vit/tiny"):
        identify(state, given=Choice("vit/base"))
    with pytest.raises(CheckpointError, match="weights of vit/tiny, not of swin/tiny"):
        identify(state, given=Choice("swin/tiny"))


def test_a_file_that_contradicts_its_config_is_refused_by_field():
    sidecar = Sidecar("transformers", {"model_type": "vit", "hidden_size": 768})
    with pytest.raises(CheckpointError, match=r"hidden_size in config.json is 768, and the tensors have 64"):
        identify(tiny_state(), sidecar, Choice("", {"heads": 2}))


def test_a_file_of_no_family_is_answered_with_the_nearest():
    state = tiny_state()
    state["blocks.0.extra.weight"] = torch.empty(3, device="meta")
    with pytest.raises(CheckpointError, match=r"nearest is vit/tiny read as timm: unknown blocks.0.extra.weight"):
        identify(state, given=Choice("", {"heads": 2}))
    other = {name.replace("patch_embed.", "embeds."): t for name, t in tiny_state().items()}
    words = r"such tensors; nearest is vit read as timm, which has no 2: embeds.proj.bias, embeds.proj.weight\n"
    with pytest.raises(CheckpointError, match=words):
        identify(other)
    with pytest.raises(CheckpointError, match=r"no model here is resnet50d(.|\n)*near by name: resnet/50"):
        identify(other, Sidecar("timm", {"architecture": "resnet50d"}))
    with pytest.raises(CheckpointError, match="no model here has such tensors: 1: something"):
        identify({"something": torch.empty(2, device="meta")})


def test_a_table_of_no_square_grid_asks_for_its_size_and_takes_it():
    state = tiny_state(img_size=(32, 40))
    with pytest.raises(CheckpointError, match=r"--model.size 32 40 or --model.size 40 32"):
        identify(state, given=Choice("", {"heads": 2}))
    found = identify(state, given=Choice("", {"heads": 2, "size": [32, 40]}))
    assert found.model.keys["size"] == (32, 40)
    config = {"architecture": "mine", "model_args": {"num_heads": 2, "img_size": [32, 40]}}
    assert identify(state, Sidecar("timm", config)).input.size == (32, 40)


@pytest.mark.parametrize("name", ["google_vit_tiny", "google_vit_tiny_in21k"])
def test_files_of_google_show_their_heads(name):
    found = identify(read_weights(Path(__file__).parents[1] / "golden" / f"{name}.npz").tensors)
    assert (found.model.keys["heads"], found.model.keys["width"], found.model.keys["gelu"]) == (4, 32, "tanh")
    assert found.input.resize_mode == "stretch"


def test_a_model_of_timm_inside_one_of_transformers():
    state = {f"timm_model.{name}": t for name, t in tiny_state().items()}
    config = {"model_type": "timm_wrapper", "architecture": "mine", "model_args": {"num_heads": 2}}
    assert identify(state, Sidecar("timm", config)).source == "timm"


def test_more_tensors_than_any_model_has_are_refused():
    one = torch.empty(1, device="meta")
    with pytest.raises(CheckpointError, match="more than any model"):
        identify({f"blocks.{i}.x": one for i in range(20_001)})
