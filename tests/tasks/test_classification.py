"""The loss is the published one, for hard, soft and several labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.contracts import Predictions
from vitrail.tasks.classification import Config, build
from vitrail.types import Batch


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits


def test_smoothed_cross_entropy_is_torchs():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    task = build(Config(classes=4, smoothing=0.1))
    for targets in (labels, task.targets(labels)):
        loss = task.loss(Fixed(logits), Batch(torch.zeros(6, 1), targets))["cross_entropy"]
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_bce_and_several_labels():
    logits = torch.randn(3, 4)
    hot = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    task = build(Config(classes=4, multi_label=True, smoothing=0.0))
    loss = task.loss(Fixed(logits), Batch(torch.zeros(3, 1), hot))["bce"]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, hot.float()))
    torch.testing.assert_close(task.predict(Fixed(logits), torch.zeros(3, 1)), logits.sigmoid())
    single = build(Config(classes=4, loss="bce", smoothing=0.0))
    labels = torch.tensor([0, 1, 2])
    wanted = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4).float())
    torch.testing.assert_close(single.loss(Fixed(logits), Batch(torch.zeros(3, 1), labels))["bce"], wanted)
    torch.testing.assert_close(single.predict(Fixed(logits), torch.zeros(3, 1)), logits.softmax(-1))


def test_the_metric_that_ranks_runs_is_among_the_metrics():
    for multi, targets in ((False, torch.arange(6) % 3), (True, torch.eye(3, dtype=torch.uint8).repeat(2, 1))):
        task = build(Config(classes=3, multi_label=multi))
        assert task.metric.name in task.evaluator().metrics(Predictions(torch.rand(6, 3), targets))


def test_needs_classes():
    with pytest.raises(ValueError, match="classes"):
        build(Config())
