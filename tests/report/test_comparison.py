"""The numbers behind two runs side by side, against what can be worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from vitrail.metrics.classification import single_label
from vitrail.report.compare.comparison import bounds, disagreement, f1_of, measure_interval, nll_of, table
from vitrail.report.run_data import Evaluation


def evaluated(seed, count=600, classes=4, skill=1.0):
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    logits = chance.normal(size=(count, classes)) + skill * np.eye(classes)[targets]
    rows = torch.from_numpy(logits).softmax(1)
    return Evaluation(
        "test", single_label(rows, torch.from_numpy(targets)), rows.numpy(), targets, [str(i) for i in range(count)]
    )


def test_statistics_of_all_images_are_the_metrics():
    one, every = evaluated(0), np.arange(600)
    assert f1_of(one)(every) == pytest.approx(one.metrics["macro_f1"])
    assert nll_of(one)(every) == pytest.approx(one.metrics["nll"])


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says():
    one = evaluated(0)
    each = -np.log(one.probabilities[np.arange(600), one.targets])
    low, high = bounds(nll_of(one), 600)
    wide = norm.ppf(0.975) * each.std() / np.sqrt(600)
    assert low == pytest.approx(each.mean() - wide, abs=0.15 * wide)
    assert high == pytest.approx(each.mean() + wide, abs=0.15 * wide)


def test_each_metric_has_the_interval_that_fits_it():
    one = evaluated(0)
    assert measure_interval("top1", one, False).method == "Wilson"
    assert measure_interval("macro_f1", one, False).method == "bootstrap"
    bare = one._replace(probabilities=np.zeros((0, 0)))
    assert measure_interval("top1", bare, False).method == "Wilson"
    for name, given in (("macro_f1", bare), ("calibration_error", one)):
        assert measure_interval(name, given, False).method == ""
    for name in ("top1", "macro_f1", "nll"):
        found = measure_interval(name, one, False)
        assert found.low < found.value < found.high


def test_disagreements_are_those_of_the_images():
    one, other = evaluated(0), evaluated(1, skill=3.0)
    found = disagreement(one, other, False)
    right = [j.probabilities.argmax(1) == j.targets for j in (one, other)]
    assert set(found.first) == set(np.flatnonzero(right[0] & ~right[1]))
    assert set(found.second) == set(np.flatnonzero(~right[0] & right[1]))
    assert not (right[0] | right[1])[found.neither].any()
    assert found.change.value == pytest.approx(right[1].mean() - right[0].mean())
    assert 0 < found.change.low < found.change.value < found.change.high
    apart = np.abs(one.probabilities - other.probabilities).sum(1)
    assert (np.diff(apart[found.second]) <= 1e-12).all()
    same = disagreement(one, one, False)
    assert (same.change.low, same.change.value, same.change.high) == (0, 0, 0)
    assert not len(same.first) + len(same.second) + len(same.neither)


def test_a_metric_that_only_its_task_knows_is_compared():
    """As of features learned without labels, or of a task of one's own."""
    runs = [SimpleNamespace(metric=name, is_multi_label=False) for name in ("effective_rank", "of_my_own")]
    values = {"count": 600, "effective_rank": 25.6, "probe_top1": 0.7}, {"count": 600, "of_my_own": 3.0}
    found = table(runs, [evaluated(0)._replace(metrics=one) for one in values])
    shown = {name: [one and one.value for one in row] for name, row in found}
    assert shown == {"probe_top1": [0.7, None], "effective_rank": [25.6, None], "of_my_own": [None, 3.0]}
