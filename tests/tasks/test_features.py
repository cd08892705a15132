"""The evaluator of tasks that learn without labels, on features whose quality is known."""

import numpy as np
import pytest
import torch

from vitrail.contracts import Predictions
from vitrail.tasks._features import FeatureEvaluator, accuracies


class Task:
    width, held_out_terms = 6, ("held_out_loss",)


def separated(count=120, classes=3, apart=5.0):
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    return torch.randn(count, 6, generator=chance) + apart * torch.eye(6)[labels], labels


def test_separated_classes_are_told_apart_by_both():
    features, labels = separated()
    assert accuracies(features, labels) == {"knn_top1": 1.0, "probe_top1": 1.0}
    assert (
        accuracies(features, labels.flip(0)[torch.randperm(120, generator=torch.Generator().manual_seed(1))])[
            "probe_top1"
        ]
        < 0.7
    )


def test_half_of_every_class_is_labelled_in_whatever_order_the_images_are():
    features, labels = separated(90)
    order = labels.argsort(stable=True)
    assert accuracies(features[order], labels[order]) == {"knn_top1": 1.0, "probe_top1": 1.0}


def test_several_labels_an_image():
    features, labels = separated(apart=9.0)
    hot = torch.nn.functional.one_hot(labels, 3).to(torch.uint8)
    assert accuracies(features, hot) == {"probe_mAP": pytest.approx(1.0)}


@pytest.mark.parametrize(
    "labels", [torch.zeros(40, dtype=torch.int64), torch.zeros(40, 3, dtype=torch.uint8), torch.zeros(0).long()]
)
def test_without_labels_that_differ_there_is_no_accuracy(labels):
    assert accuracies(torch.randn(len(labels), 6), labels) == {}


def test_metrics_of_rows():
    features, labels = separated()
    rows = torch.cat([features, torch.full((120, 1), 2.0)], dim=1)
    metrics = FeatureEvaluator(Task()).metrics(Predictions(rows, labels))
    assert metrics["held_out_loss"] == 2.0
    assert metrics["knn_top1"] == 1.0
    assert metrics["count"] == 120
    assert metrics["notes"] == []
    assert len(metrics["spectrum"]) == 6
    assert sum(metrics["spectrum"]) == pytest.approx(1.0)
    np.testing.assert_array_equal(FeatureEvaluator(Task()).arrays(Predictions(rows, labels))["held_out"], rows[:, 6:])


def test_a_collapse_is_told_and_one_image_is_none():
    rows = torch.ones(50, 7)
    metrics = FeatureEvaluator(Task()).metrics(Predictions(rows, torch.zeros(50, dtype=torch.int64)))
    assert "collapsed" in metrics["notes"][0]
    assert "knn_top1" not in metrics
    assert FeatureEvaluator(Task()).metrics(Predictions(rows[:1], torch.zeros(1).long()))["notes"] == []
