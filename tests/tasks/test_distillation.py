"""Distillation is the published one: which head listens to whom, in which share, with which reduction."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.assembly import model
from vitrail.errors import UsageError
from vitrail.tasks.distillation import Config, build
from vitrail.types import Batch

B, K = 6, 5


class Heads(nn.Module):
    """Fixed logits of some heads, on a backbone with some tokens."""

    def __init__(self, each, tokens):
        super().__init__()
        self.answers = each
        self.backbone = nn.Module()
        self.backbone.has_distillation_token = tokens == 2

    def forward_all(self, images):
        return self.answers


def parts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    each = torch.randn(B, 2, K, generator=generator)
    labels = torch.randint(K, (B,), generator=generator)
    said = torch.randn(B, K, generator=generator) * 3
    return each, labels, said


def test_hard_with_a_token_is_the_papers():
    each, labels, said = parts()
    task = build(Config(classes=K, smoothing=0.1))
    found = task.loss(Heads(each, 2), Batch(torch.zeros(B, 1), torch.cat([task.targets(labels), said], 1)))
    torch.testing.assert_close(found["labels"], 0.5 * F.cross_entropy(each[:, 0], labels, label_smoothing=0.1))
    torch.testing.assert_close(found["teacher"], 0.5 * F.cross_entropy(each[:, 1], said.argmax(1)))


def test_soft_divides_by_images_and_classes():
    each, labels, said = parts()
    task = build(Config(classes=K, kind="soft", temperature=3.0, alpha=0.1))
    found = task.loss(Heads(each, 2), Batch(torch.zeros(B, 1), torch.cat([task.targets(labels), said], 1)))
    p, q = (said / 3).softmax(1), (each[:, 1] / 3).softmax(1)
    torch.testing.assert_close(found["teacher"], 0.1 * 9 * (p * (p.log() - q.log())).sum() / (B * K))


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_without_a_token_one_answer_listens_to_both(tokens):
    each, labels, said = parts()
    task = build(Config(classes=K, smoothing=0.0, alpha=0.3))
    found = task.loss(Heads(each, tokens), Batch(torch.zeros(B, 1), torch.cat([task.targets(labels), said], 1)))
    torch.testing.assert_close(found["labels"], 0.7 * F.cross_entropy(each.mean(1), labels))
    torch.testing.assert_close(found["teacher"], 0.3 * F.cross_entropy(each.mean(1), said.argmax(1)))


def test_prediction_is_the_mean_of_both_heads():
    torch.manual_seed(0)
    made = model.create_model("deit/tiny_distilled", 4, {"width": 16, "heads": 2, "depth": 1, "size": [32, 32]}).eval()
    images = torch.randn(2, 3, 32, 32)
    task = build(Config(classes=4))
    torch.testing.assert_close(task.predict(made, images), made.forward_all(images).mean(1).softmax(-1))
    heads = list(made.heads)
    summaries = made.backbone(images).summaries
    torch.testing.assert_close(made.forward_all(images)[:, 1], heads[1](summaries[1]))


def test_the_second_head_and_token_learn_from_the_teacher_alone():
    torch.manual_seed(0)
    made = model.create_model("deit/tiny_distilled", 4, {"width": 16, "heads": 2, "depth": 1, "size": [32, 32]})
    task = build(Config(classes=4))
    targets = torch.cat([task.targets(torch.tensor([0, 1])), torch.randn(2, 4)], 1)
    task.loss(made, Batch(torch.randn(2, 3, 32, 32), targets))["labels"].backward()
    assert made.heads[0].weight.grad.abs().sum() > 0
    assert made.heads[1].weight.grad is None or not made.heads[1].weight.grad.any()


def test_weights_of_classes_are_those_of_the_labels():
    each, labels, said = parts()
    task = build(Config(classes=K, smoothing=0.0, class_weights="balanced"))
    task.fit_class_weights(torch.tensor([0, 0, 0, 1, 2, 3, 4, 4]))
    weights = 8 / (5 * torch.tensor([3.0, 1, 1, 1, 2]))
    found = task.loss(Heads(each, 2), Batch(torch.zeros(B, 1), torch.cat([task.targets(labels), said], 1)))
    wanted = (F.cross_entropy(each[:, 0], labels, reduction="none") * weights[labels]).mean()
    torch.testing.assert_close(found["labels"], 0.5 * wanted)


def test_several_labels_an_image_are_refused():
    with pytest.raises(UsageError, match="several"):
        build(Config(classes=3, multi_label=True))
