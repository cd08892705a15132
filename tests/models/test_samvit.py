"""SAM's image encoder: the published sizes, files as they are published, and what happens at other sizes."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from test_models import small

import vitrail
from vitrail.analysis.attention import attention
from vitrail.assembly import load
from vitrail.cli.main import main
from vitrail.heads.linear import Classifier
from vitrail.weights.identify import identify
from vitrail.weights.load import LoadOptions
from vitrail.weights.published import load_weights
from vitrail.weights.rules import revert
from vitrail.weights.tables import samvit as table

KEYS = {"width": 32, "depth": 4, "heads": 4, "patch": 8, "size": (48, 48), "window": 4, "neck": 24}


def stirred(**keys):
    torch.manual_seed(1)
    model = vitrail.backbone("samvit/base", **{**KEYS, **keys})
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize(("name", "count"), [("base", 89_670_912), ("large", 308_278_272), ("huge", 637_026_048)])
def test_parameters_as_published(name, count):
    """Those of timm's samvit_*_patch16, which have no classifier."""
    with torch.device("meta"):
        assert sum(p.numel() for p in vitrail.backbone(f"samvit/{name}").parameters()) == count


def test_four_blocks_are_global():
    model = vitrail.backbone("samvit/base", **{**KEYS, "depth": 12})
    assert [i for i, block in enumerate(model.blocks) if block.windows is None] == [2, 5, 8, 11]  # timm's base
    assert all(b.windows is None for b in vitrail.backbone("samvit/base", **{**KEYS, "window": 0}).blocks)


def file_of(model, source, tmp_path):
    """A file as the original or transformers have it, with the other parts beside it."""
    state = revert(dict(model.state_dict()), table.SOURCES[source])
    others = ["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "mask_decoder.iou_token.weight"]
    state |= {name: torch.ones(2, 2) for name in others}
    if source == "transformers":
        state["shared_image_embedding.positional_embedding"] = torch.ones(2, 2)
    path = tmp_path / f"{source}.safetensors"
    save_file(state, path)
    return path, state


@torch.no_grad()
@pytest.mark.parametrize("source", ["original", "transformers"])
def test_files_say_what_they_are(tmp_path, source):
    model = stirred()
    path, state = file_of(model, source, tmp_path)
    found = identify({name: t.to("meta") for name, t in state.items()})
    assert found.source == source
    assert found.model.name == "samvit/base"
    assert main(["import", str(path), "--new-head", "--classes", "3", "--out", str(tmp_path / "out")]) in (None, 0)
    again = load.load_bundle(tmp_path / "out")[0].model
    assert again.backbone.config == dataclasses.replace(model.config, global_blocks=again.backbone.config.global_blocks)
    x = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(again.eval().backbone(x).maps[0], model(x).maps[0])


@pytest.mark.parametrize("keys", [{"size": (24, 24)}, {"size": (64, 48)}, {"window": 0}, {"global_blocks": (1, 3)},
                                  {"neck": 0, "position": "none", "size": (32, 32)}, {"depth": 12}])  # fmt: skip
def test_configs_are_read_off_the_tables(keys):
    """Grids smaller than a window, oblong ones, windows as large as the image: the same numbers at the model's size."""
    model = Classifier(stirred(**keys), 3).eval()
    state = revert({n.removeprefix("backbone."): t for n, t in model.state_dict().items()}, table.SOURCES["timm"])
    found = identify({name: t.to("meta") for name, t in state.items()})
    again = vitrail.backbone(found.model.name, **{**found.model.keys, "eps": 1e-6})  # of timm's names it is 1e-5
    again.load_state_dict(model.backbone.state_dict())
    x = torch.randn(1, 3, *model.backbone.config.size)
    torch.testing.assert_close(again.eval()(x).maps[0], model.backbone(x).maps[0])


@torch.no_grad()
def test_weights_at_another_size_are_those_that_the_model_computes_there(tmp_path):
    """Tables of positions, absolute and relative, resampled on loading or at run time."""
    model = Classifier(stirred(), 3).eval()
    state = revert({n.removeprefix("backbone."): t for n, t in model.state_dict().items()}, table.SOURCES["timm"])
    save_file(state, tmp_path / "sam.safetensors")
    other = vitrail.create("samvit/base", classes=3, **{**KEYS, "size": (72, 72)})
    report = load_weights(other, tmp_path / "sam.safetensors", options=LoadOptions(resize=True))
    assert any("relative.rows" in name for name in report.resized)
    x = torch.randn(1, 3, 72, 72)
    torch.testing.assert_close(other.eval()(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_can_be_looked_at():
    model, x = small("samvit").eval(), torch.randn(1, 3, 64, 64)
    local, whole = (attention(model, x)[i].weights for i in (0, 2))
    assert local.shape == whole.shape == (1, 4, 64, 64)
    assert local[0, 0, 0].count_nonzero() == 9  # of a window of 3x3
    torch.testing.assert_close(whole.sum(-1), torch.ones(1, 4, 64))
