"""ExecuTorch: its file answers as torch does. What it needs is no part of the development environment."""

import sys

import numpy as np
import pytest
import torch

from vitrail.cli.main import main
from vitrail.inference.load_any import load_any


def test_without_the_package(monkeypatch, run, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "executorch", None)
    assert main(["export", str(run), "--format", "executorch", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'vitrail[executorch]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its own
def test_it_answers_as_torch_does(run, tmp_path):
    pytest.importorskip("executorch", reason="the extra [executorch] is not installed")
    out = tmp_path / "out"
    assert main(["export", str(run), "--format", "executorch", "--out", str(out)]) == 0
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (5, 3, 32, 32), np.uint8))
    ours = load_any(out).predict(pixels).probabilities
    torch.testing.assert_close(ours, load_any(run).predict(pixels).probabilities, rtol=0, atol=1e-5)
