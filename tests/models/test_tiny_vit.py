"""TinyViT: the published sizes, the original's files, what attention sees, and refusals."""

import pytest
import torch
from safetensors.torch import save_file
from test_models import small

import vitrail
from vitrail.analysis.attention import attention
from vitrail.analysis.positions import find_encodings
from vitrail.cli.main import main
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.weights.identify import identify
from vitrail.weights.rules import revert
from vitrail.weights.tables import tiny_vit as table


@pytest.mark.parametrize(
    ("name", "millions"), [("5m", 5.39), ("11m", 11.00), ("21m", 21.20), ("21m_384", 21.23), ("21m_512", 21.27)]
)
def test_parameters_as_published(name, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in vitrail.create(f"tiny_vit/{name}").parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@torch.no_grad()
@pytest.mark.parametrize("source", ["timm", "original"])
def test_files_say_what_they_are(tmp_path, source):
    model = Classifier(small("tiny_vit"), 5).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    state = {n.removeprefix("backbone."): t for n, t in model.state_dict().items()}
    state = revert(state, table.SOURCES[source])
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "tiny.safetensors")
    found = identify({name: t.to("meta") for name, t in state.items()})
    assert (found.model.name.partition("/")[0], found.source, found.outputs) == ("tiny_vit", source, 5)
    assert main(["import", str(tmp_path / "tiny.safetensors"), "--out", str(tmp_path / "out")]) in (None, 0)
    again = vitrail.load(tmp_path / "out").model.eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again(x), model(x))


@torch.no_grad()
def test_attention_is_in_windows_and_has_a_bias_by_distance():
    model = small("tiny_vit").eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    one = attention(model, torch.randn(1, 3, 64, 64), layers=0)[0]  # of 8x8 cells in windows of 3x3, padded
    assert one.weights.shape == (1, 2, 64, 64)
    assert one.weights[0, 0, 0].count_nonzero() == 9
    shown = find_encodings(model)[0]
    assert shown.values.shape == (2, 5, 5)
    torch.testing.assert_close(shown.values, shown.values.flip(1, 2))


def test_heads_that_do_not_divide_a_width_are_refused():
    with pytest.raises(UsageError, match="not divisible"):
        vitrail.backbone("tiny_vit/5m", heads=(3, 5, 10))
