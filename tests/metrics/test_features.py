"""How varied features are, against formulas written out by hand."""

import math

import pytest
import torch

from vitrail.metrics import features
from vitrail.metrics.features import collapse_note, effective_rank, feature_std, spectrum


def variety(x):
    return features.variety(x, spectrum(x))


def test_isotropic_features_have_std_one_and_full_rank():
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    std = feature_std(x)
    assert std.shape == (16,)
    torch.testing.assert_close(std, torch.ones(16).double(), atol=0.05, rtol=0)
    assert 15.5 < variety(x)["effective_rank"] <= 16
    assert collapse_note(variety(x)) == ""


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_singular_values():
    x = torch.randn(30, 7, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 8)
    values = torch.linalg.svdvals(x.double() - x.double().mean(0)).tolist()
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(spectrum(x)) == pytest.approx(expected, rel=1e-9)


def test_the_scale_and_a_rotation_change_nothing_that_matters():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(2)) + 3
    turned = x.double() @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)).double()).Q
    assert variety(1e4 * x) == pytest.approx(variety(x), rel=1e-5)
    assert variety(turned)["effective_rank"] == pytest.approx(variety(x)["effective_rank"], rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_point_is_a_collapse(noise):
    x = torch.randn(1, 12) * 5 + noise * torch.randn(200, 12)
    values = variety(x)
    assert values["feature_std"] < 1e-5
    assert values["least_feature_std"] <= values["feature_std"]
    assert "nearly the same" in collapse_note(values)


def test_a_line_is_a_collapse():
    x = torch.linspace(-1, 1, 100)[:, None] * torch.randn(1, 12) + torch.randn(1, 12)
    assert variety(x)["effective_rank"] == pytest.approx(1.0, abs=0.01)
    assert "line" in collapse_note(variety(x))


def test_edges():
    assert variety(torch.ones(1, 4))["effective_rank"] == 0.0  # one image
    assert variety(torch.zeros(5, 4)) == {"feature_std": 0.0, "least_feature_std": 0.0, "effective_rank": 0.0}
    assert variety(torch.eye(2, 9))["effective_rank"] == pytest.approx(1.0)  # of two images
