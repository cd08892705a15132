"""JiT: published sizes, names of its weights, places. Its numbers: `test_parity.py`; what it promises:
`test_denoisers.py`."""

import pytest
import torch
from oracles import JIT, golden, relative_error
from safetensors.torch import save_file

import vitrail
from vitrail import catalog
from vitrail.analysis.cost import cost, on_meta_device
from vitrail.models.jit import VARIANTS, build, dropouts


@pytest.mark.parametrize(("name", "millions", "gmacs"), [
    ("base_16", 131.320, 25.22), ("base_32", 133.387, 25.75), ("base_64", 141.654, 27.87),
    ("large_16", 459.140, 87.94), ("large_32", 461.796, 88.62), ("large_64", 472.422, 91.34),
    ("huge_16", 952.842, 181.95), ("huge_32", 956.383, 182.85), ("huge_64", 970.548, 186.48),
    ("giant_16", 2007.556, 383.74), ("giant_32", 2011.982, 384.88), ("giant_64", 2029.686, 389.41),
])  # fmt: skip
def test_sizes_are_the_published(name, millions, gmacs):
    """Theirs include the frozen table of 256 places. `test_show.py` holds the rows against the models."""
    row = catalog.read_published()["models"][f"jit/{name}"]
    assert round((row["parameters"] + 256 * VARIANTS[name].width) / 1e6, 3) == millions
    assert round(row["macs"] / 1e9, 2) == pytest.approx(gmacs, abs=0.011)
    if name.startswith("base"):
        with on_meta_device():
            model = vitrail.create(f"jit/{name}")
        assert cost(model).macs == row["macs"]
        assert model.position.table.shape == (256, 768)


def test_dropout_is_in_the_middle_half_of_the_large_ones():
    rates = dropouts(VARIANTS["huge_16"])
    assert rates == [0.0] * 8 + [0.2] * 16 + [0.0] * 8
    assert set(dropouts(VARIANTS["base_16"])) == {0.0}


def test_rows_turn_the_first_half_of_a_head_columns_the_second_and_class_tokens_nothing():
    model, handed = build(JIT).eval(), []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda m, args, out: handed.append(args))
    side = JIT.patch
    model(torch.randn(1, 3, 2 * side, 3 * side), torch.tensor([0.5]), torch.tensor([3]))
    assert [layout.leading for _, layout, _ in handed] == [0, 0, 4, 4]
    assert torch.equal(handed[0][2], handed[-1][2][4:])
    found = handed[-1][2]
    assert found.shape == (4 + 6, 8)
    assert not found[:4].any()
    omega = 10000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(found[4 + 5], torch.cat([1 * omega, 2 * omega]))


def test_class_tokens_come_in_the_middle_and_are_gone_in_the_end():
    model, lengths = build(JIT).eval(), []
    for block in model.blocks:
        block.register_forward_hook(lambda m, args, out: lengths.append(out.shape[1]))
    model(torch.randn(1, 3, 32, 16), torch.tensor([0.5]), torch.tensor([3]))
    assert lengths == [32, 32, 36, 36]


@pytest.mark.parametrize("prefix", ["", "net."])
def test_published_files_are_read(tmp_path, prefix):
    held, state = golden("jit_tiny")
    save_file({prefix + name: t for name, t in state.items()}, tmp_path / "jit.safetensors")
    ours = build(JIT)
    report = vitrail.load_weights(ours, tmp_path / "jit.safetensors")
    assert (report.source.partition(":")[0], report.fraction, report.missing, report.unexpected) == (
        "original",
        1.0,
        (),
        (),
    )
    with torch.no_grad():
        out = ours.eval()(held["forward.x"], held["forward.t"], held["forward.y"])
    assert relative_error(out, held["forward.out"]) <= 1e-5
