"""Made images against real ones, by features: against other programs, and where the answer is known."""

import math

import pytest
import torch
from scipy.linalg import sqrtm

from vitrail.metrics import generation


def normal(count, mean=0.0, std=1.0, width=4, seed=0):
    return mean + std * torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(counts):
    mix = normal(8, width=8, seed=9)
    return normal(counts[0], width=8) @ mix, normal(counts[1], 0.3, 1.2, 8, 1) @ mix


def test_frechet_is_that_of_scipys_root():
    real, made = samples((300, 200))
    cov1, cov2 = torch.cov(real.T), torch.cov(made.T)
    root = sqrtm((cov1 @ cov2).numpy()).real
    wanted = (real.mean(0) - made.mean(0)).square().sum() + (cov1 + cov2).trace() - 2 * root.trace()
    assert generation.frechet(real, made) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(300, 200), (6, 5)])
def test_frechet_is_that_of_torchmetrics(counts):
    """Also of fewer images than features, whose covariances are singular. Slow is the import alone."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    real, made = samples(counts)
    wanted = fid._compute_fid(real.mean(0), torch.cov(real.T), made.mean(0), torch.cov(made.T))
    assert generation.frechet(real, made) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)


def test_frechet_of_normal_distributions_is_known():
    """Independent channels: the squared differences of means and deviations, summed."""
    real, made = normal(40_000, 0.0, 1.0), normal(40_000, 0.5, 2.0, seed=1)
    assert generation.frechet(real, made) == pytest.approx(4 * (0.5**2 + 1.0**2), rel=0.02)
    assert generation.frechet(real, real) == pytest.approx(0, abs=1e-9)
    still = torch.ones(10, 4, dtype=torch.float64)
    assert generation.frechet(still, still + 2) == pytest.approx(16, abs=1e-9)


def by_hand(real, made, k):
    """The definitions, image by image."""

    def reach(features):
        return [sorted(math.dist(a, b) for b in features)[k] for a in features]

    def inside(asked, others, radius):
        return sum(any(math.dist(a, b) <= r for b, r in zip(others, radius, strict=True)) for a in asked) / len(asked)

    a, b = real.tolist(), made.tolist()
    ra, rb = reach(a), reach(b)
    density = sum(math.dist(x, y) <= r for x in b for y, r in zip(a, ra, strict=True)) / (k * len(b))
    coverage = sum(any(math.dist(x, y) <= r for x in b) for y, r in zip(a, ra, strict=True)) / len(a)
    return inside(b, a, ra), inside(a, b, rb), density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhoods_are_as_defined(k, monkeypatch):
    monkeypatch.setattr(generation, "CHUNK", 7)
    real, made = normal(40), normal(30, 0.7, 0.8, seed=1)
    precision, recall, density, coverage = by_hand(real, made, k)
    assert generation.precision_recall(real, made, k) == pytest.approx((precision, recall))
    assert generation.density_coverage(real, made, k) == pytest.approx((density, coverage))
    assert 0 < recall < 1


def test_the_ends_of_every_scale():
    real = normal(200)
    same = generation.compare_features(real, real)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert same["density"] >= 1
    far = generation.compare_features(real, real + 100)
    assert (far["precision"], far["recall"], far["density"], far["coverage"]) == (0, 0, 0, 0)
    one = generation.compare_features(real, real[:1].expand(50, -1) + 1e-9 * normal(50, seed=3))
    assert one["precision"] == 1
    assert one["recall"] < 0.05
    assert one["coverage"] < 0.1
