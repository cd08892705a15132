"""Counted by hand, and the same."""

import warnings

import numpy as np
import pytest
import torch

from vitrail.metrics.classification import multi_label, single_label


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
