"""Folders and files as timm and transformers write them, through the commands, without a word on the model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrail
from vitrail.cli.main import main
from vitrail.errors import CheckpointError
from vitrail.weights.folders import holds_weights, read_published


def shaken(model):
    torch.manual_seed(1)
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model.eval()


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder as transformers saves it, and its model."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8,
        id2label=dict(enumerate(("cat", "dog", "crane", "crane"))), layer_norm_eps=1e-6,
        hidden_act="gelu_new",
    )  # fmt: skip
    model = shaken(transformers.ViTForImageClassification(config))
    folder = tmp_path_factory.mktemp("hub") / "vit"
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    words = {"do_resize": True, "size": size, "resample": 2, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6],
             "image_std": [0.2, 0.2, 0.3], "do_rescale": True, "rescale_factor": 1 / 255}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(words))
    return folder, model


def test_a_folder_of_transformers_is_imported_whole(hub, tmp_path, capsys):
    folder, theirs = hub
    assert main(["import", str(folder), "--out", str(tmp_path / "m"), "--licence", "MIT"]) == 0
    printed = capsys.readouterr().out
    assert "these are weights of vit/" in printed
    assert "as the file beside them says" in printed
    ours = vitrail.load(tmp_path / "m")
    assert ours.classes == ("cat", "dog", "crane", "crane (3)")
    given = ours.recipe.input
    assert (given.mean, given.std, given.resize_mode, given.interpolation, given.size) == (
        (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), "stretch", "bilinear", (32, 32)
    )  # fmt: skip
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(ours.model.eval()(x), theirs(x).logits) < 1e-5


def test_shards_are_read_as_one_file(hub, tmp_path):
    folder, _ = hub
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for name, part in parts.items():
        save_file({n: tensors[n] for n in part}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert holds_weights(tmp_path)
    raw, sidecar = read_published(tmp_path)
    assert raw.tensors.keys() == tensors.keys()
    assert sidecar.writer == "transformers"
    for bad in ("../model-1.safetensors", "model-9.safetensors", "config.json"):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        with pytest.raises(CheckpointError):
            read_published(tmp_path)


def test_a_folder_of_timm_is_imported_whole(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import _hub as timm_hub

    theirs = shaken(timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, img_size=32, num_classes=4))
    timm_hub.save_for_hf(theirs, tmp_path / "t", safe_serialization=True)
    assert main(["import", str(tmp_path / "t"), "--out", str(tmp_path / "m"), "--licence", "MIT"]) == 0
    ours = vitrail.load(tmp_path / "m")
    assert ours.recipe.model.name == "vit/tiny"
    assert (ours.recipe.input.mean, ours.recipe.input.crop_ratio) == ((0.5, 0.5, 0.5), 0.9)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(ours.model.eval()(x), theirs(x)) < 1e-5
