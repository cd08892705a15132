"""DiT: published sizes, names of its weights. Its numbers: `test_parity.py`; what it promises: `test_denoisers.py`."""

import pytest
import torch
from oracles import DIT, dit_diffusers, golden, relative_error
from safetensors.torch import save_file

import vitrail
from vitrail import catalog
from vitrail.analysis.cost import cost, on_meta_device
from vitrail.errors import CheckpointError
from vitrail.layers.adaln import time_embedding, unpatchify
from vitrail.models.dit import build


@pytest.mark.parametrize(("name", "millions", "gmacs", "larger"), [
    ("small_8", 33.14, 0.36, 1.43), ("small_4", 32.92, 1.41, 6.07), ("small_2", 32.87, 6.06, 31.44),
    ("base_8", 130.87, 1.42, 0), ("base_4", 130.43, 5.57, 0), ("base_2", 130.32, 23.01, 0),
    ("large_8", 458.58, 5.01, 0), ("large_4", 457.99, 19.70, 0), ("large_2", 457.84, 80.70, 0),
    ("xl_8", 675.66, 7.39, 0), ("xl_4", 675.00, 29.04, 0), ("xl_2", 674.83, 118.62, 0),
])  # fmt: skip
def test_sizes_are_the_published(name, millions, gmacs, larger):
    """`test_show.py` holds the rows against the models."""
    row = catalog.read_published()["models"][f"dit/{name}"]
    assert round(row["parameters"] / 1e6, 2) == millions
    assert round(row["macs"] / 1e9, 2) == pytest.approx(gmacs, abs=0.011)
    if name.startswith("small"):
        with on_meta_device():
            model = vitrail.create(f"dit/{name}")
        assert cost(model).macs == row["macs"]
        assert round(cost(model, 64).macs / 1e9, 2) == pytest.approx(larger, abs=0.011)


def test_patches_come_back_where_they_were():
    x = torch.randn(2, 3, 8, 12)
    patches = (
        x.unflatten(3, (3, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    )  # [B hw ppC]
    assert torch.equal(unpatchify(patches, (2, 3), 4), x)


def test_waves_are_cosines_then_sines_of_the_time_itself():
    t = torch.tensor([0.0, 0.37, 999.0])
    omega = 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    angles = t[:, None].double() * omega
    torch.testing.assert_close(
        time_embedding(t).double(), torch.cat([angles.cos(), angles.sin()], 1), atol=2e-4, rtol=0
    )


def test_published_files_are_read(tmp_path):
    """The original's names and those of diffusers, recognised by themselves."""
    held, state = golden("dit_tiny")
    save_file(state, tmp_path / "original.safetensors")
    ours = build(DIT)
    report = vitrail.load_weights(ours, tmp_path / "original.safetensors")
    assert (report.source, report.fraction, report.missing, report.unexpected) == ("original", 1.0, (), ())
    out = ours.eval()(held["forward.x"], held["forward.t"], held["forward.y"])
    assert relative_error(out, held["forward.out"]) <= 1e-5
    with pytest.raises(CheckpointError, match="label"):
        vitrail.load_weights(
            vitrail.backbone("dit/nano", width=64, depth=3, patch=2, channels=4), tmp_path / "original.safetensors"
        )
    pytest.importorskip("diffusers")
    made = dit_diffusers()
    save_file(made.theirs.state_dict(), tmp_path / "diffusers.safetensors")
    assert vitrail.load_weights(ours, tmp_path / "diffusers.safetensors").source == "diffusers"
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        assert relative_error(ours(x, torch.tensor([3, 999]), torch.tensor([7, 10])), made.logits(x)) <= 1e-5
