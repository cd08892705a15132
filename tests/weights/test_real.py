"""Trained weights of others. VITRAIL_DINOV2 names a file with a DINOv2 ViT-S/14 with registers; see
benchmarks/real_weights.py."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.cli.main import main

FILE = os.environ.get("VITRAIL_DINOV2", "")
pytestmark = pytest.mark.skipif(not FILE, reason="VITRAIL_DINOV2 does not name a file")
place = Path(__file__).parents[2] / "benchmarks" / "real_weights.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("real_weights", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [(518, 518), (224, 280)])
def test_features_equal_timms(size):
    real = benchmark()
    model, report = real.ours(FILE)
    assert report.source == "original:registers"
    assert set(report.dropped) == {"mask_token"}
    assert report.fraction == 1.0
    cls, patches, *_ = real.compare(model, real.theirs(FILE), size)
    assert max(cls, patches) < 1e-4


def test_a_table_resized_on_loading_is_the_one_resampled_at_run_time():
    real = benchmark()
    model, _ = real.ours(FILE)
    small, report = real.ours(FILE, size=(224, 280), resize=True)
    assert "grid 37x37 to 16x20, antialias" in report.resized["position.table"]
    x = torch.randn(1, 3, 224, 280)
    with torch.no_grad():
        torch.testing.assert_close(small(x).maps[0], model(x).maps[0], rtol=1e-4, atol=1e-4)


def test_command(tmp_path, capsys):
    keys = "--model.patch 14 --model.registers 4 --model.size 518 518 --model.layer-scale 1.0 --new-head "
    keys += "--classes 10 --licence MIT"
    assert main(["import", FILE, "--model", "vit/small", *keys.split(), "--out", str(tmp_path / "m")]) == 0
    told = capsys.readouterr().out
    assert "mask_token: mask token of pre-training" in told
    assert "model.position_resampling = antialias" in told
    assert len(vitrail.load(tmp_path / "m").classes) == 10
