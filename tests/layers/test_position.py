"""Absolute and relative position encodings: exact numbers, the tables of other code bases, any grid, gradients,
export."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import every_third

from vitrail.errors import UsageError
from vitrail.layers.position import Concatenate, Factorised, Learned, SinCos, sincos_1d, sincos_2d
from vitrail.layers.relative import RelativeBias, relative_index
from vitrail.layers.resample import resample, resample_1d, resample_bias

torch.set_num_threads(1)

GRIDS = [(4, 4), (3, 5), (14, 9), (1, 7)]
side = st.integers(1, 7)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def close(a, b, atol=1e-6):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    assert a.shape == b.shape
    torch.testing.assert_close(a.double(), b.double(), atol=atol, rtol=0)


# --- tables stretched to another grid ---------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 9)), ((6, 10), (11, 4)), ((5, 3), (3, 5))]
)
def test_resample_agrees_with_timm(old, new, mode, antialias):
    timm = pytest.importorskip("timm.layers")
    table = torch.randn(old[0] * old[1], 8)
    theirs = timm.resample_abs_pos_embed(table[None], list(new), list(old), 0, interpolation=mode, antialias=antialias)[
        0
    ]
    close(resample(table, old, new, mode, antialias), theirs, atol=0)


def cubic(u: float, a: float) -> float:
    u = abs(u)
    if u <= 1:
        return (a + 2) * u**3 - (a + 3) * u**2 + 1
    return a * (u**3 - 5 * u**2 + 8 * u - 4) if u < 2 else 0.0


def cubic_matrix(old: int, new: int) -> np.ndarray:
    """Cubic convolution with a = -0.75, pixel centres aligned, border cells repeated: [new old]."""
    made = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            made[i, min(max(j, 0), old - 1)] += cubic(centre - j, -0.75)
    return made


@settings(max_examples=30, deadline=None)
@given(side, side, side, side)
def test_resample_is_cubic_convolution_along_both_axes(h, w, h2, w2):
    table = torch.randn(h * w, 3, dtype=torch.float64)
    plane = np.einsum("ih,jw,hwd->ijd", cubic_matrix(h, h2), cubic_matrix(w, w2), table.numpy().reshape(h, w, 3))
    close(resample(table, (h, w), (h2, w2)), plane.reshape(h2 * w2, 3), atol=1e-12)


def test_resample_to_the_same_grid_is_the_same_object():
    table = torch.randn(12, 4)
    assert resample(table, (3, 4), (3, 4)) is table
    assert resample_1d(table, 12) is table
    bias = torch.randn(5 * 7, 2)
    assert resample_bias(bias, (3, 4), (3, 4)) is bias
    assert not torch.equal(resample(table, (3, 4), (4, 3)), table), "as many cells, another grid"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_resample_works_in_float32_and_keeps_the_dtype(dtype):
    table = torch.randn(12, 4).to(dtype)
    out = resample(table, (3, 4), (6, 5))
    assert out.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(out, resample(table.float(), (3, 4), (6, 5)).to(dtype))
        assert torch.equal(resample_1d(table, 7), resample_1d(table.float(), 7).to(dtype))


def test_resample_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match=r"13 rows.*3x4 = 12"):
        resample(torch.randn(13, 4), (3, 4), (6, 6))
    with pytest.raises(UsageError, match="bicubic"):
        resample(torch.randn(12, 4), (3, 4), (6, 6), "cubic")


@settings(max_examples=25, deadline=None)
@given(side, st.integers(1, 9))
def test_resample_1d_is_linear(old, new):
    table = torch.randn(old, 2, dtype=torch.float64)
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    wanted = np.stack([np.interp(at, np.arange(old), column) for column in table.numpy().T], axis=1)
    close(resample_1d(table, new), wanted, atol=1e-12)


# --- sines and cosines ------------------------------------------------------------------------------------------------


def plain_sincos(grid, width, order):
    """Cell by cell, number by number."""
    out = np.zeros((grid[0] * grid[1], width))
    for y in range(grid[0]):
        for x in range(grid[1]):
            row = []
            if order == "sum":
                half = width // 2
                omega = [10000 ** (-k / half) for k in range(half)]
                row = [np.sin(y * o) + np.sin(x * o) for o in omega] + [np.cos(y * o) + np.cos(x * o) for o in omega]
            else:
                quarter = width // 4
                omega = [10000 ** (-k / (quarter - (order == "big_vision"))) for k in range(quarter)]
                for place in (x, y):
                    row += [np.sin(place * o) for o in omega] + [np.cos(place * o) for o in omega]
            out[y * grid[1] + x] = row
    return out


@settings(max_examples=40, deadline=None)
@given(side, side, st.sampled_from([8, 12, 64]), st.sampled_from(["mae", "big_vision", "sum"]))
def test_sincos_2d_is_the_formula(h, w, width, order):
    table = sincos_2d((h, w), width, order)
    assert table.dtype == torch.float32
    close(table, plain_sincos((h, w), width, order), atol=1e-7)


def test_sincos_1d_is_the_formula():
    wanted = [[f(n * 10000 ** (-k / 5)) for f in (np.sin, np.cos) for k in range(5)] for n in range(200)]
    table = sincos_1d(200, 10)
    assert table.dtype == torch.float32
    close(table, np.array(wanted), atol=1e-7)


@pytest.mark.parametrize("grid", GRIDS)
def test_mae_order_is_timm_with_its_halves_swapped(grid):
    timm = pytest.importorskip("timm.layers")
    theirs = timm.build_sincos2d_pos_embed(list(grid), 96, interleave_sin_cos=True)
    close(sincos_2d(grid, 96), torch.cat(theirs.chunk(2, dim=1)[::-1], dim=1), atol=2e-6)


def test_mae_order_is_the_table_of_the_mae_in_transformers():
    hf = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    embeddings = hf.ViTMAEEmbeddings(hf.ViTMAEConfig(image_size=48, patch_size=8, hidden_size=64))
    embeddings.initialize_weights()  # by hand: building the whole model leaves this table at zero
    theirs = embeddings.position_embeddings[0]
    close(sincos_2d((6, 6), 64), theirs[1:].detach(), atol=1e-7)
    assert not theirs[0].any(), "the class token has no place"


def test_the_last_frequency_of_big_vision_is_exactly_a_ten_thousandth():
    table = sincos_2d((1, 9), 32, "big_vision").double()
    close(table[:, 7], np.sin(np.arange(9) * 1e-4), atol=1e-9)
    assert (sincos_2d((14, 14), 64) - sincos_2d((14, 14), 64, "big_vision")).abs().max() > 0.1, "not interchangeable"


@pytest.mark.parametrize(
    ("width", "order", "near"),
    [(30, "mae", "28 or 32"), (2, "mae", "use 4"), (4, "big_vision", "use 8"), (7, "sum", "6 or 8")],
)
def test_widths_that_do_not_divide_are_answered_with_those_that_do(width, order, near):
    with pytest.raises(UsageError, match=near):
        sincos_2d((2, 2), width, order)
    with pytest.raises(UsageError, match="mae"):
        sincos_2d((2, 2), 8, "maee")


# --- modules ----------------------------------------------------------------------------------------------------------

MAKERS = {
    "learned": lambda: Learned((3, 5), 16),
    "learned with tokens": lambda: Learned((3, 5), 16, tokens=2, init="xavier"),
    "1d": lambda: SinCos((3, 5), 16, "1d"),
    "mae": lambda: SinCos((3, 5), 16),
    "big_vision": lambda: SinCos((3, 5), 16, "big_vision"),
    "sum": lambda: SinCos((3, 5), 16, "sum"),
    "factorised": lambda: Factorised((3, 5), 16),
    "concatenate": lambda: Concatenate(Learned((3, 5), 16), 16),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("grid", [(3, 5), (6, 4), (1, 1)])
def test_any_grid(name, grid):
    module, patches = MAKERS[name](), torch.randn(2, *grid, 16)
    out, place = module(patches), module.encoding(grid)
    assert out.shape == patches.shape
    assert place.shape == (grid[0] * grid[1], 16)
    if name != "concatenate":
        close(out - patches, place.view(1, *grid, 16).expand_as(patches), atol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("grid", [(3, 5), (7, 4)])
def test_export_gives_the_same_numbers(name, grid):
    module, patches = MAKERS[name]().eval(), torch.randn(2, *grid, 16)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (patches,), dynamic_shapes=({0: batch},)).module()
    other = torch.randn(5, *grid, 16)
    close(program(other), module(other), atol=1e-6)


@pytest.mark.parametrize("name", every_third(MAKERS))
def test_one_export_serves_every_size(name):
    module = MAKERS[name]().eval()
    sides = {1: torch.export.Dim("h", min=4, max=64), 2: torch.export.Dim("w", min=6, max=64)}
    program = torch.export.export(module, (torch.randn(1, 4, 6, 16),), dynamic_shapes=(sides,)).module()
    for grid in [(7, 9), (4, 30)]:
        patches = torch.randn(1, *grid, 16)
        close(program(patches), module(patches), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("grid", [(3, 5), (4, 6)])
def test_gradients_reach_every_parameter(name, grid):
    module, patches = MAKERS[name](), torch.randn(2, *grid, 16, requires_grad=True)
    module(patches).square().sum().backward()
    assert (patches.grad != 0).all()
    for key, p in module.named_parameters():
        tokens = module.tokens if isinstance(module, Learned) else 0
        assert p.grad is not None, key
        assert (p.grad[tokens:] != 0).all(), key


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("grid", [(3, 5), (4, 6)])
def test_half_precision_stays_half_precision(name, grid):
    out = MAKERS[name]().bfloat16()(torch.randn(2, *grid, 16).bfloat16())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_learned_keeps_the_rows_of_tokens_apart():
    position = Learned((3, 5), 16, tokens=2)
    assert position.table.shape == (17, 16)
    assert position.token_rows.data_ptr() == position.table.data_ptr()
    assert position.token_rows.shape == (2, 16)
    assert torch.equal(position.encoding((3, 5)), position.table[2:])
    assert torch.equal(position.encoding((6, 4)), resample(position.table[2:], (3, 5), (6, 4)))
    assert Learned((3, 5), 16).token_rows.shape == (0, 16)
    position.token_rows.sum().backward()
    assert position.table.grad.sum() == 32


def test_initial_values():
    normal, xavier = Learned((20, 20), 64).table, Learned((20, 20), 64, init="xavier").table
    assert abs(normal.std().item() - 0.02) < 1e-3
    bound = (6 / (400 + 64)) ** 0.5
    assert 0.95 * bound < xavier.abs().max() <= bound
    assert Factorised((3, 5), 64, "xavier").rows.abs().max() <= (6 / 67) ** 0.5
    with pytest.raises(UsageError, match="xavier"):
        Learned((2, 2), 8, init="savier")


def test_sincos_stores_nothing_in_a_checkpoint_and_computes_elsewhere_what_it_would_have_held():
    position = SinCos((3, 5), 16)
    assert not position.state_dict()
    assert not list(position.parameters())
    assert torch.equal(position.encoding((6, 4)), SinCos((6, 4), 16).table)
    assert torch.equal(position.encoding((3, 5)), sincos_2d((3, 5), 16))
    with torch.device("meta"):
        assert SinCos((3, 5), 16).table.is_meta, "goes where the parameters go"


def test_factorised_is_a_sum_over_axes():
    position = Factorised((3, 5), 16)
    place = position.encoding((3, 5)).view(3, 5, 16)
    close(place[2, 4], position.rows[2] + position.columns[4], atol=0)
    close(
        position.encoding((6, 5)).view(6, 5, 16)[4, 1], resample_1d(position.rows, 6)[4] + position.columns[1], atol=0
    )


def test_concatenate_projects_patch_and_place():
    module, patches = Concatenate(SinCos((3, 5), 16), 16), torch.randn(2, 3, 5, 16)
    weight, place = module.proj.weight, module.encoding((3, 5)).view(3, 5, 16)
    close(module(patches), patches @ weight[:, :16].T + place @ weight[:, 16:].T + module.proj.bias, atol=1e-5)


# --- relative bias ----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(side, side)
def test_relative_index_is_the_formula(h, w):
    index = relative_index((h, w))
    wanted = [
        [(q // w - k // w + h - 1) * (2 * w - 1) + q % w - k % w + w - 1 for k in range(h * w)]
        for q in range(h * w)
    ]  # fmt: skip
    assert index.tolist() == wanted
    assert set(index.unique().tolist()) == set(range((2 * h - 1) * (2 * w - 1))), "every row is used"


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6)])
@pytest.mark.parametrize("class_token", [False, True])
def test_relative_bias_agrees_with_timm(grid, class_token):
    timm = pytest.importorskip("timm.layers")
    bias = RelativeBias(grid, heads=3, tokens=int(class_token))
    theirs = timm.gen_relative_position_index(grid, class_token=class_token)
    assert torch.equal(bias.index, theirs)
    assert torch.equal(bias(grid), bias.table[theirs].permute(2, 0, 1))
    if not class_token:
        assert torch.equal(relative_index(grid), theirs)


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_relative_bias_on_another_grid(tokens):
    rel = pytest.importorskip("timm.layers.pos_embed_rel")
    bias, new = RelativeBias((4, 4), heads=3, tokens=tokens), (6, 6)
    rows = 11 * 11 + (3 if tokens else 0)
    theirs = rel.resize_rel_pos_bias_table_simple(bias.table, new, (rows, 3))
    elsewhere = RelativeBias(new, heads=3, tokens=tokens)
    elsewhere.table.data.copy_(theirs)
    close(bias(new), elsewhere(), atol=1e-6)
    assert bias((3, 5)).shape == (3, tokens + 15, tokens + 15)


def test_leading_tokens_share_three_rows():
    bias = RelativeBias((2, 3), heads=2, tokens=2)
    made, last = bias(), bias.table[-3:]
    assert made.shape == (2, 8, 8)
    assert (made[:, :2, 2:] == last[0].view(2, 1, 1)).all()
    assert (made[:, 2:, :2] == last[1].view(2, 1, 1)).all()
    assert (made[:, :2, :2] == last[2].view(2, 1, 1)).all()
    assert torch.equal(made[:, 2:, 2:], bias.table[relative_index((2, 3))].permute(2, 0, 1))
    assert RelativeBias((2, 3), heads=2).table.shape == (15, 2)
    assert list(bias.state_dict()) == ["table"]


@pytest.mark.parametrize("grid", [(3, 4), (5, 2)])
@pytest.mark.parametrize("tokens", [0, 2])
def test_relative_bias_learns_and_exports(grid, tokens):
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = RelativeBias((3, 4), heads=2, tokens=tokens)

        def forward(self, x):
            return x + self.bias(grid)

    n = tokens + grid[0] * grid[1]
    module, x = Logits(), torch.randn(2, 2, n, n)
    module(x).square().sum().backward()
    assert (module.bias.table.grad != 0).all()
    close(torch.export.export(module, (x,)).module()(x), module(x), atol=1e-6)
