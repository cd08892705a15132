"""Families say which token stands where: nothing is guessed from sizes, and what is empty is no parameter."""

import pytest
import torch
from test_models import FAMILIES, SMALL, images, shaken, small

import vitrail
from vitrail.analysis.attention import attention
from vitrail.analysis.distance import mean_distance
from vitrail.engine.state import flatten_optimizer, unflatten_optimizer
from vitrail.heads.segment import HeadConfig, Segmenter
from vitrail.layers.token_layout import self_attention_layout, side_of
from vitrail.layers.windows import Windows
from vitrail.models import jit
from vitrail.types import TokenLayout, unplaced_tokens


def handed(model, x):
    """The layouts that attentions are handed in a pass."""
    found = []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda m, args, out: found.append(args[1]))
    model(x)
    return found


def test_tall_patches_and_long_grids_are_where_they_are():
    """Cells four times as high as wide, twelve of them in a row, behind a class token and registers."""
    model = shaken("vit", patch=(16, 4), size=(16, 48), tokens=2, registers=3)
    one = attention(model, images("vit", (16, 46)))[0]  # the last cell reaches over the edge
    assert (one.queries.leading, one.queries.summaries) == (5, 2)
    (cells,) = one.queries.maps
    assert (cells.grid, cells.extent) == ((1, 12), (16, 48))
    assert cells.columns[-1].tolist() == [44, 48]
    assert mean_distance(one).isfinite().all()


def test_cells_that_were_left_out_leave_the_grid_as_it_is():
    model = small("vit", patch_dropout=0.5, size=(32, 64), registers=1).train()
    for layout in handed(model, images("vit", (32, 64))):
        assert layout.grid == (4, 8)
        assert layout.kept.shape == (2, 16)
        assert (layout.leading, layout.cells, layout.tokens) == (2, 16, 18)
        assert side_of(layout).maps == (), "no cell is there in all images"
    assert all(layout.kept is None for layout in handed(model.eval(), images("vit")))


def test_classes_of_the_mask_transformer_stand_behind_the_cells():
    torch.manual_seed(0)
    model = Segmenter(shaken("vit", size=(32, 64)), HeadConfig("mask", 5, dropout=0.0)).eval()
    one = attention(model, images("vit", (32, 60)), layers=-1)[0]
    assert one.name == "heads.main.blocks.1.attn"
    assert (one.queries.leading, one.queries.trailing, one.queries.cells) == (0, 5, 32)
    assert [cells.extent for cells in one.queries.maps] == [(32, 64)]
    assert torch.equal(one.attention_from(3).flatten(2), one.weights[:, :, 32 + 3, :32])
    torch.testing.assert_close(one.attention_to().flatten(2), one.weights.mean(2)[..., :32])
    assert mean_distance(one).isfinite().all()


def test_a_branch_that_sees_a_smaller_copy_has_cells_of_the_image_as_it_was_given():
    one = attention(shaken("crossvit"), images("crossvit", (60, 60)), layers="blocks.0.blocks.1")[0]
    torch.testing.assert_close(one.queries.maps[0].columns[-1], torch.tensor([3, 4]) * 16 * 60 / 56)


def test_tokens_without_a_place_have_no_map():
    side = side_of(unplaced_tokens(7))
    assert (side.tokens, side.leading, side.maps) == (7, 7, ())


def test_windows_tell_which_cell_stands_where_and_what_is_padding():
    at = self_attention_layout(TokenLayout((3, 5), (4, 4), groups=Windows((2, 3), (1, 0))))
    assert at.query_index.tolist() == [  # a map of 4 x 6 with zeros, moved up by one
        [5, 6, 7, 10, 11, 12], [8, 9, -1, 13, 14, -1], [-1, -1, -1, 0, 1, 2], [-1, -1, -1, 3, 4, -1],
    ]  # fmt: skip
    assert at.queries.tokens == 15


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_that_a_layout_counts_are_there(family):
    assert SMALL[family]
    model, wrong = small(family).eval(), []
    for module in model.modules():
        module.register_forward_hook(
            lambda m, args, out: wrong.extend(
                (m, args[0].shape, layout) for layout in args[1:2]
                if isinstance(layout, TokenLayout) and layout.groups is None and args[0].ndim == 3
                and args[0].shape[1] != layout.tokens
            )
        )  # fmt: skip
    model(images(family))
    assert wrong == []


def test_files_with_empty_parameters_are_read(tmp_path):
    """As they were written when there were always registers, and tokens, be it none."""
    model = shaken("vit", tokens=0)
    state = model.state_dict()
    old = {**state, "registers": torch.empty(0, 32), "tokens": torch.empty(0, 32)}
    again = small("vit", tokens=0)
    again.load_state_dict(old)
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    assert len(old) == len(state) + 2, "what is given is left as it is"
    with pytest.raises(RuntimeError, match="registers"):
        again.load_state_dict({**state, "registers": torch.zeros(1, 32)})
    torch.save(old, tmp_path / "old.pth")
    third = small("vit", tokens=0)
    report = vitrail.load_weights(third, tmp_path / "old.pth")
    assert (report.missing, report.unexpected) == ((), ())
    assert all(torch.equal(v, state[k]) for k, v in third.state_dict().items())
    config = jit.Config(width=32, depth=2, heads=2, patch=4, size=(16, 16), context=0, bottleneck=8)
    denoiser = jit.build(config)
    denoiser.load_state_dict({**denoiser.state_dict(), "context": torch.empty(0, 32)})


def test_an_optimizer_that_knew_empty_parameters_goes_on():
    model = small("vit")
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    kept = flatten_optimizer(optimizer, model)
    old = {**kept, "registers|step": torch.tensor(1.0), "registers|exp_avg": torch.empty(0, 32)}
    unflatten_optimizer(optimizer, model, old)
    assert flatten_optimizer(optimizer, model).keys() == kept.keys()
