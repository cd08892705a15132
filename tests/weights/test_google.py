"""The .npz files of the original ViT, in all their layouts, give the original's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vitrail
from vitrail.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {"width": 32, "depth": 3, "heads": 4, "mlp_ratio": 2.0, "patch": 8, "size": (32, 32), "gelu": "tanh"}


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


def arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def save(path, tree):
    np.savez(path, **tree)
    return path


def agrees(model, name, limit=1e-5):
    io = arrays(f"{name}_io")
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(io["images_nhwc"]).permute(0, 3, 1, 2))
    error = relative_error(logits, torch.from_numpy(io["logits"]))
    assert error < limit, error


def test_original_layout():
    model = vitrail.create("vit/tiny", classes=10, **TINY)
    report = vitrail.load_weights(model, GOLDEN / "google_vit_tiny.npz")
    assert report.source == "google"
    assert report.fraction == 1.0
    rest = (report.missing, report.unexpected, report.dropped, report.left_out, report.resized)
    assert not any(rest)
    agrees(model, "google_vit_tiny")


def test_newer_layout_with_pre_logits():
    model = vitrail.create("vit/tiny", classes=10, pre_logits=32, **TINY)
    report = vitrail.load_weights(model, GOLDEN / "google_vit_tiny_in21k.npz", source="google")
    assert report.source == "google:new"
    agrees(model, "google_vit_tiny_in21k")


def test_pre_logits_are_never_lost_silently():
    model = vitrail.create("vit/tiny", classes=10, **TINY)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"unexpected 2: [\s\S]*pre_logits[\s\S]*--model.pre-logits"):
        vitrail.load_weights(model, GOLDEN / "google_vit_tiny_in21k.npz")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def scanned(tree):
    """All blocks in one array, as big_vision saves a scanned encoder."""
    out, blocks = {}, {}
    for name, array in tree.items():
        first, _, rest = name.partition("encoderblock_")
        if rest:
            number, _, leaf = rest.partition("/")
            blocks.setdefault(f"{first}encoderblock/{leaf}", {})[int(number)] = array
        else:
            out[name] = array
    return {**out, **{name: np.stack([of[i] for i in sorted(of)]) for name, of in blocks.items()}}


def big_vision(tree):
    return {("pos_embedding" if "pos_embedding" in n else n): a for n, a in tree.items()}


def without_class_row(tree):
    """As big_vision folds an old file: the class token takes its position, the table covers the patches alone."""
    name = next(n for n in tree if "pos_embedding" in n)
    return {**tree, "cls": tree["cls"] + tree[name][:, :1], name: tree[name][:, 1:]}


def prefixed(prefix):
    return lambda tree: {f"{prefix}{n}": a for n, a in tree.items()}


def optimiser(tree):
    return {
        **prefixed("opt/target/")(tree),
        "opt/state/step": np.array(3),
        "opt/state/param_states/head/bias/momentum": np.zeros(10),
    }


LAYOUTS = [scanned, big_vision, without_class_row, prefixed("params/"), prefixed("params/img/"),
           prefixed("opt/target/"), optimiser,
           lambda tree: scanned(without_class_row(big_vision(tree)))]  # fmt: skip


@pytest.mark.parametrize("change", LAYOUTS)
@pytest.mark.parametrize("position_tokens", [True, False])
def test_every_layout_gives_the_same_numbers(tmp_path, change, position_tokens):
    path = save(tmp_path / "x.npz", change(arrays("google_vit_tiny_in21k")))
    model = vitrail.create("vit/tiny", classes=10, pre_logits=32, position_tokens=position_tokens, **TINY)
    vitrail.load_weights(model, path)
    agrees(model, "google_vit_tiny_in21k")


def test_compressed_and_in_half_numbers(tmp_path):
    tree = arrays("google_vit_tiny")
    np.savez_compressed(tmp_path / "packed.npz", **tree)
    model = vitrail.create("vit/tiny", classes=10, **TINY)
    vitrail.load_weights(model, tmp_path / "packed.npz")
    agrees(model, "google_vit_tiny")
    half = {n: torch.from_numpy(a).bfloat16().view(torch.int16).numpy().view("V2") for n, a in tree.items()}
    report = vitrail.load_weights(model, save(tmp_path / "bf16.npz", half))
    assert "bfloat16 to float32" in " ".join(report.notes)
    agrees(model, "google_vit_tiny", 2e-2)


def test_imported_with_the_original_gelu_and_ready_to_predict(tmp_path, capsys):
    from vitrail.cli.main import main

    keys = "--model.width 32 --model.depth 3 --model.heads 4 --model.mlp-ratio 2.0 --model.patch 8 --model.size 32 32"
    words = f"import {GOLDEN / 'google_vit_tiny.npz'} --model vit/tiny {keys} --out {tmp_path / 'm'}".split()
    words += ["--licence", "Apache-2.0"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "model.gelu = tanh" in told
    assert "mean (0.5, 0.5, 0.5)" in told
    predictor = vitrail.load(tmp_path / "m")
    assert predictor.classes == tuple(map(str, range(10)))
    io = arrays("google_vit_tiny_io")
    agrees(predictor.model, "google_vit_tiny")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert predictor.predict(image).probabilities.shape == (1, 10)
    assert len(io["logits"]) == 2
    from vitrail.storage.tensors import unpack

    about = unpack(tmp_path / "m" / "model.safetensors")[1]
    assert about["origin"]["licence"] == "Apache-2.0"
    assert about["origin"]["source"] == "google"
    assert len(about["origin"]["sha256"]) == 64
    assert main(words) == 2  # never overwritten
