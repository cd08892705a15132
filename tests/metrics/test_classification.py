"""Counted by hand, and as torchmetrics and scipy count."""

import warnings

import numpy as np
import pytest
import torch

from vitrail.metrics.classification import BINS, average_precision, calibration_error, multi_label, single_label
from vitrail.metrics.intervals import jackknife_reach, wilson_interval


def test_single_label_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    t = torch.tensor([0, 1, 1, 2])
    found = single_label(p, t)
    assert found["top1"] == 0.75
    assert found["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found["per_class"]["precision"] == pytest.approx([0.5, 1.0, 1.0])
    assert found["per_class"]["recall"] == pytest.approx([1.0, 0.5, 1.0])
    assert found["per_class"]["f1"] == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert found["nll"] == pytest.approx(-np.log([0.7, 0.6, 0.3, 0.6]).mean(), rel=1e-5)
    assert found["count"] == 4
    assert sum(row[2] for row in found["calibration"]) == 4


def test_calibration_error_by_hand():
    confidence = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    right = torch.rand(500, generator=torch.Generator().manual_seed(1)) < confidence
    p = torch.stack([confidence, 1 - confidence], 1)
    t = torch.where(right, 0, 1)
    found = single_label(p, t)
    by_hand = sum(abs(c - a) * n for c, a, n in found["calibration"]) / 500
    assert found["calibration_error"] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_any_number_of_classes(k):
    p = torch.rand(20, k).softmax(-1)
    found = single_label(p, torch.arange(20) % k)
    assert found["count"] == 20
    assert len(found["per_class"]["f1"]) == k


def test_top5_is_given_where_it_can_miss():
    p = torch.linspace(0.3, 0.1, 6).expand(4, 6)
    assert single_label(p, torch.tensor([0, 1, 4, 5]))["top5"] == 0.75
    for k in (1, 2, 5):
        assert "top5" not in single_label(p[:, :k], torch.zeros(4, dtype=torch.long))


def test_a_class_without_images_does_not_spoil_the_mean():
    p = torch.eye(3)[[0, 0, 1]]
    assert single_label(p, torch.tensor([0, 0, 1]))["macro_f1"] == 1.0


def test_multi_label_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6]])
    t = torch.tensor([[1, 0], [1, 1], [0, 0]], dtype=torch.uint8)
    found = multi_label(p, t)
    assert found["per_class"]["precision"] == pytest.approx([1.0, 0.5])
    assert found["per_class"]["recall"] == pytest.approx([1.0, 1.0])
    assert found["per_class"]["average_precision"] == pytest.approx([1.0, 1.0])
    assert found["exact"] == pytest.approx(2 / 3)
    assert found["mAP"] == pytest.approx(1.0)


def test_of_a_class_that_no_image_has_there_is_no_warning_and_no_minus_zero(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = multi_label(torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.3, 0.6]]), torch.tensor([[1, 0, 0], [1, 0, 0]]))
    assert capfd.readouterr() == ("", "")
    assert found["mAP"] == 1.0
    for name, column in found["per_class"].items():
        assert [str(v) for v in column[1:]] == (["0", "0"] if name == "count" else ["0.0", "0.0"])


def drawn(n, k, seed=0, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator)
    return (sharpness * logits).softmax(1), (logits + torch.randn(n, k, generator=generator)).argmax(1)


EDGES = torch.arange(8, 16) / 15
PROBABILITIES = {
    "usual": drawn(500, 7),
    "two classes": drawn(300, 2),
    "sure": drawn(400, 5, sharpness=50.0),
    "of one class": (drawn(40, 3)[0], torch.full((40,), 2)),
    "one image": drawn(1, 3),
    "exactly 0 and 1": (torch.eye(4)[[0, 1, 1, 3, 2]], torch.tensor([0, 1, 2, 3, 2])),
    "all equal": (torch.full((9, 3), 1 / 3), torch.arange(9) % 3),
    "on the edges of bins": (torch.stack([EDGES, 1 - EDGES], 1), torch.ones(8).long()),
    "float64": (drawn(200, 6, 3)[0].double(), drawn(200, 6, 3)[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBABILITIES)
def test_confusion_and_calibration_agree_with_torchmetrics(name):
    from torchmetrics.functional import classification as tm

    p, t = PROBABILITIES[name]
    k, found = p.shape[1], single_label(p, t)
    assert found["confusion"] == tm.multiclass_confusion_matrix(p, t, k).tolist()
    expected = float(tm.multiclass_calibration_error(p, t, k, n_bins=BINS))
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)
    if name == "on the edges of bins":  # where 15 x 0.6 rounds to below 9
        assert calibration_error(p.max(1).values, torch.zeros(8)) == pytest.approx(
            float(p.max(1).values.mean()), abs=1e-6
        )
    assert found["top1"] == pytest.approx(float(tm.multiclass_accuracy(p, t, k, average="micro")), abs=1e-6)


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "perfect", "one positive", "every positive"])
def test_average_precision_agrees_with_torchmetrics(kind):
    from torchmetrics.functional.classification import binary_average_precision

    generator = torch.Generator().manual_seed(5)
    scores, targets = torch.rand(200, generator=generator), torch.randint(0, 2, (200,), generator=generator)
    if kind == "ties":
        scores = (scores * 5).round() / 5
    elif kind == "all equal":
        scores = torch.full((200,), 0.3)
    elif kind == "perfect":
        scores = targets * 0.5 + scores * 0.4
    elif kind == "one positive":
        targets = (torch.arange(200) == 77).long()
    elif kind == "every positive":
        targets = torch.ones_like(targets)
    assert average_precision(scores, targets) == pytest.approx(
        float(binary_average_precision(scores, targets)), abs=1e-6
    )


@pytest.mark.parametrize("count", [1, 2, 10, 2000])
def test_wilson_interval_agrees_with_scipy(count):
    from scipy.stats import binomtest

    for hits in {0, 1, count // 3, count // 2, count - 1, count}:
        expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
        assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0.0, count)[0] == 0.0
    assert wilson_interval(1.0, count)[1] == 1.0


def test_jackknife_takes_students_quantile():
    from scipy.stats import t

    values = np.arange(30.0) ** 2
    without = np.array([np.delete(values, np.flatnonzero(np.arange(30) % 10 == g)).mean() for g in range(10)])
    error = np.sqrt(0.9 * ((without - without.mean()) ** 2).sum())
    assert jackknife_reach(lambda which: values[which].mean(), 30) == pytest.approx(t.ppf(0.975, 9) * error)
