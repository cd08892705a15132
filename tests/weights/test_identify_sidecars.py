"""Files beside tensors that are wrong, hostile or another model's: an error that names the field; nothing is built."""

import json

import pytest
import torch

from vitrail.errors import CheckpointError
from vitrail.recipe import Choice
from vitrail.weights import sidecars
from vitrail.weights.folders import read_published
from vitrail.weights.identify import identify
from vitrail.weights.sidecar_input import read_input
from vitrail.weights.sidecars import Sidecar, read_sidecar


@pytest.fixture(scope="module")
def state():
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        return VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=4
        ).state_dict()


GIVEN = Choice("vit/tiny", {"width": 48, "depth": 2})  # one family: quicker

WRONG = {  # a field of a config of transformers, and its value
    "num_attention_heads": ["3", 3.5, True, -3, 0, 10**30, [3], {"a": 1}],
    "hidden_size": ["48", 10**12, 1e300, [48]],
    "image_size": [-1, 2**20, "32", [32], [32, 32, 32], True],
    "layer_norm_eps": ["1e-6", -1.0, 2, [1e-6], 1e308],
    "qkv_bias": ["true", 1, None, []],
    "hidden_act": ["__import__('os').system('true')", 3, "relu"],
    "id2label": [{"0": "a", "1": 7, "2": "c", "3": "d"}, {"a": "b"}, [1, 2], {str(i): "" for i in range(4)},
                 {str(i): "\x1b[2J" for i in range(4)}, {"0": "a", "1": "b"}],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_named(field, state):
    good = {"model_type": "vit", "num_attention_heads": 3, "image_size": 32}
    for value in WRONG[field]:
        if value is None:
            continue
        sidecar = Sidecar("transformers", {**good, field: value})
        with pytest.raises(CheckpointError) as error:
            identify(state, sidecar, GIVEN)
        assert field in error.value.what, value
        assert len(str(error.value).splitlines()) <= 5


def test_a_good_one_is_taken(state):
    names = {str(i): name for i, name in enumerate(("cat", "dog", "crane", "crane"))}
    config = {"model_type": "vit", "num_attention_heads": 6, "image_size": 32, "id2label": names, "unknown": {"a": [1]}}
    found = identify(state, Sidecar("transformers", config), GIVEN)
    assert found.model.keys["heads"] == 6
    assert found.classes == ("cat", "dog", "crane", "crane (3)")
    labels = {str(i): f"LABEL_{i}" for i in range(4)}
    assert identify(state, Sidecar("transformers", {**config, "id2label": labels}), GIVEN).classes is None


def test_what_contradicts_the_tensors_is_an_error_unless_it_only_lies_in_the_same_folder(state):
    config = {"model_type": "vit", "num_attention_heads": 3, "num_hidden_layers": 12}
    with pytest.raises(CheckpointError, match=r"num_hidden_layers in config.json is 12, and the tensors have 2"):
        identify(state, Sidecar("transformers", config))
    found = identify(state, Sidecar("transformers", config, certain=False), Choice("", {"heads": 3}))
    assert any("another model" in reason for reason in found.reasons)


def test_names_of_classes_are_read_the_other_way_round_where_only_that_is_there(state):
    config = {"model_type": "vit", "num_attention_heads": 6, "image_size": 32}
    table = {"d": 3, "a": 0, "c": 2, "b": 1}
    for given, names in ((table, ("a", "b", "c", "d")), ({"a": 0}, None), ({**table, "d": 9}, None), ([1], None)):
        assert identify(state, Sidecar("transformers", {**config, "label2id": given}), GIVEN).classes == names


def test_options_of_timm_that_are_not_known_are_named(state):
    config = {"architecture": "mine", "model_args": {"num_heads": 3, "scale_attn_norm": True}}
    with pytest.raises(CheckpointError, match=r"model_args.scale_attn_norm in config.json is an option"):
        identify(state, Sidecar("timm", config))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '"x"', '{"a": NaN}', '{"a": Infinity}', '{"a": 1, "a": 2}', "[" * 3000,
     '{"a":' * 990 + "1" + "}" * 990],
)  # fmt: skip
def test_what_is_no_plain_json_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_sidecar(tmp_path)


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "LONGEST", 1000)
    (tmp_path / "config.json").write_text(json.dumps({"a": "x" * 2000}))
    with pytest.raises(CheckpointError, match="bytes"):
        read_sidecar(tmp_path)
    monkeypatch.setattr(sidecars, "MOST_VALUES", 10)
    (tmp_path / "config.json").write_text(json.dumps({"a": [0] * 20}))
    with pytest.raises(CheckpointError, match="values"):
        read_sidecar(tmp_path)


def test_no_folder_without_weights_and_no_index_out_of_its_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no file of weights"):
        read_published(tmp_path)
    for names in ({"a": "/etc/passwd"}, {"a": "../x.safetensors"}, {"a": 3}, {}, [], {"a": "x.sh"}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError):
            read_published(tmp_path)


def words(**changes):
    base = {"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.1, 0.2, 0.3],
            "image_std": [0.4, 0.5, 0.6], "do_normalize": True}  # fmt: skip
    return Sidecar("transformers", {}, {k: v for k, v in {**base, **changes}.items() if v is not None})


def test_preprocessing_of_transformers_in_its_forms():
    assert read_input(words()) == {
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "size": (32, 32),
        "resize_mode": "stretch",
    }  # fmt: skip
    shortest = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    cropped = read_input(words(**shortest, do_center_crop=True))
    assert (cropped["size"], cropped["resize_mode"], cropped["crop_ratio"]) == ((224, 224), "crop", 0.875)
    assert read_input(words(size=384))["size"] == (384, 384)
    pct = read_input(words(size={"shortest_edge": 224}, crop_pct=0.9))
    assert (pct["size"], pct["crop_ratio"]) == ((224, 224), 0.9)
    plain = read_input(words(do_normalize=False))
    assert (plain["mean"], plain["std"]) == ((0.0,) * 3, (1.0,) * 3)
    halved = read_input(words(rescale_factor=1 / 510))  # pixels to half of [0, 1]
    assert halved["mean"] == pytest.approx((0.2, 0.4, 0.6))


@pytest.mark.parametrize(
    "changes",
    [{"size": 0}, {"size": 2**20}, {"size": {"height": "x", "width": 3}}, {"size": [1, 2, 3]}, {"resample": 0},
     {"resample": "2"}, {"image_mean": ["a"]}, {"image_mean": [2.0] * 3}, {"image_std": [0.0] * 3}, {"crop_size": -1},
     {"rescale_factor": -1.0}, {"do_resize": "yes"}],
)  # fmt: skip
def test_wrong_preprocessing_is_named(changes):
    with pytest.raises(CheckpointError, match=next(iter(changes)).removesuffix("_factor")):
        read_input(words(**changes))


def test_preprocessing_of_timm_in_its_forms():
    given = {"input_size": [3, 378, 378], "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash",
             "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    assert read_input(Sidecar("timm", {"architecture": "x", "pretrained_cfg": given})) == {
        "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_ratio": 1.0, "size": (378, 378), "interpolation": "bicubic",
        "resize_mode": "stretch",
    }  # fmt: skip
    for name, value in (("crop_mode", "spiral"), ("interpolation", "box"), ("crop_pct", 0), ("input_size", [3])):
        with pytest.raises(CheckpointError, match=name):
            read_input(Sidecar("timm", {"architecture": "x", "pretrained_cfg": {**given, name: value}}))
