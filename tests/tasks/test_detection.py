"""Set prediction as published: who answers for what, by how much they differ, and what that costs."""

import dataclasses
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.contracts import Predictions
from vitrail.data.dataset import Boxes
from vitrail.metrics.detection import average_precision
from vitrail.tasks.detection import Config, boxes_of_row, build
from vitrail.tasks.detection.matching import giou, match_costs, match_queries, to_corners, to_relative
from vitrail.types import Batch, DetectionOutput, DetectionTargets

L, B, Q, K, M = 3, 4, 6, 5, 3
TASK = build(Config(classes=K))
EVALUATOR = TASK.evaluator()


def found(seed=0, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    centre, extent = torch.rand(L, B, Q, 2, generator=g), torch.rand(L, B, Q, 2, generator=g) * 0.5 + 0.05
    return DetectionOutput(torch.randn(L, B, Q, K + 1, generator=g) * scale, torch.cat([centre, extent], -1))


def objects(counts=(2, 0, 3, 1), seed=1):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(40, 200, (len(counts), 2), generator=g)
    first = torch.rand(len(counts), M, 2, generator=g) * 0.6
    last = first + torch.rand(len(counts), M, 2, generator=g) * 0.3 + 0.05
    boxes = torch.cat([first, last], -1) * sizes.flip(-1).repeat(1, 2)[:, None]
    there = torch.arange(M) < torch.tensor(counts)[:, None]
    labels = torch.randint(K, there.shape, generator=g).where(there, torch.tensor(-1))
    return DetectionTargets(
        boxes * there[..., None], labels, sizes, torch.full((len(counts),), sum(counts) / len(counts))
    )


def as_theirs(given):
    boxes = to_relative(given)
    return [{"class_labels": k[k >= 0], "boxes": b[k >= 0]} for k, b in zip(given.labels, boxes, strict=True)]


@pytest.mark.parametrize("counts", [(2, 0, 3, 1), (3, 3, 3, 3), (0, 0, 1, 0)])
def test_every_term_is_that_of_transformers(counts):
    from transformers import DetrConfig
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    said, true = found(), objects(counts)
    config = DetrConfig(num_labels=K, decoder_layers=L, auxiliary_loss=True, use_timm_backbone=False)
    total, expected, _ = ForObjectDetectionLoss(
        said.logits[-1], as_theirs(true), "cpu", said.boxes[-1], config, said.logits, said.boxes
    )
    terms = TASK.terms(said, true)
    for name, key, weight in (("class", "loss_ce", 1), ("box", "loss_bbox", 5), ("giou", "loss_giou", 2)):
        layers = torch.stack([expected[f"{key}_0"], expected[f"{key}_1"], expected[key]]) * weight
        torch.testing.assert_close(terms[name], layers, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sum(t.sum() for t in terms.values()), total, rtol=1e-5, atol=1e-6)


def test_answers_are_those_of_transformers():
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    said, true = found(2), objects()
    chosen = match_queries(match_costs(said, to_relative(true), true.labels, (1, 5, 2)), true.labels)
    for layer in range(L):
        theirs = HungarianMatcher(1, 5, 2)(
            {"logits": said.logits[layer], "pred_boxes": said.boxes[layer]}, as_theirs(true)
        )
        for ours, (queries, which) in zip(chosen[layer], theirs, strict=True):
            assert {int(o): int(q) for q, o in zip(queries, which, strict=True)} == {
                o: int(q) for o, q in enumerate(ours) if q >= 0
            }


def test_matching_against_brute_force():
    labels = torch.tensor([[0, 1, 2], [4, -1, -1], [-1, -1, -1], [3, 3, -1]])
    cost = torch.randn(L, B, Q, M, generator=torch.Generator().manual_seed(0))
    chosen = match_queries(cost, labels)
    for table, row in zip(cost.flatten(0, 1), chosen.flatten(0, 1), strict=True):
        n = int((row >= 0).sum())
        best = min(
            permutations(range(Q), n), key=lambda queries: sum(float(table[q, o]) for o, q in enumerate(queries))
        )
        assert row.tolist() == [*best, *[-1] * (M - n)]
    assert (chosen >= 0).sum((0, 2)).tolist() == [9, 3, 0, 6]


def test_more_objects_than_queries():
    """The cheapest of them are answered for, each query once; the loss stays finite."""
    true = objects((3, 3, 3, 3))
    said = DetectionOutput(found().logits[:, :, :2], found().boxes[:, :, :2])
    chosen = match_queries(match_costs(said, to_relative(true), true.labels, (1, 5, 2)), true.labels)
    assert ((chosen >= 0).sum(-1) == 2).all()
    assert all(set(row[row >= 0].tolist()) == {0, 1} for row in chosen.flatten(0, 1))
    assert all(torch.isfinite(t).all() for t in TASK.terms(said, true).values())


def test_what_is_not_finite_is_told_by_the_loss():
    said = found()
    said.logits[0, 0, 0, 0] = float("nan")
    assert not torch.isfinite(TASK.terms(said, objects())["class"][0])


def test_overlap_is_that_of_torchvision():
    from torchvision.ops import generalized_box_iou

    a, b = to_corners(found().boxes.flatten(0, 2)), to_corners(found(3).boxes.flatten(0, 2))
    torch.testing.assert_close(giou(a[:, None], b), generalized_box_iou(a, b), rtol=1e-5, atol=1e-6)
    nothing = torch.zeros(1, 4)
    assert torch.isfinite(giou(nothing, nothing)).all()


def test_images_without_any_object():
    said = found()
    for part in said:
        part.requires_grad_(True)
    terms = TASK.terms(said, objects((0, 0, 0, 0)))
    assert terms["box"].tolist() == terms["giou"].tolist() == [0, 0, 0]
    sum(t.sum() for t in terms.values()).backward()
    assert said.logits.grad.any()
    assert not said.boxes.grad.any()
    none = objects((0, 0, 0, 0))._replace(boxes=torch.zeros(B, 0, 4), labels=torch.zeros(B, 0, dtype=torch.int64))
    torch.testing.assert_close(TASK.terms(said, none), terms)


@pytest.mark.parametrize("cuts", [(0, 1, 4), (0, 2, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("counts", [(2, 0, 3, 1), (0, 0, 1, 0)])
def test_pieces_add_up_to_the_batch(cuts, counts):
    """Each piece weighed by its share of the images, whether or not it has objects, and whatever padding its own is cut
    to."""
    said, true = found(), objects(counts)
    whole = TASK.terms(said, true)
    total = dict.fromkeys(whole, torch.zeros(L))
    for start, end in pairwise(cuts):
        most = max(1, int((true.labels[start:end] >= 0).sum(1).max()))
        piece = DetectionTargets(*(t[start:end] for t in true))._replace(
            boxes=true.boxes[start:end, :most], labels=true.labels[start:end, :most]
        )
        for name, term in TASK.terms(DetectionOutput(*(t[:, start:end] for t in said)), piece).items():
            total[name] = total[name] + term * (end - start) / B
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)


class Said(nn.Module):
    """A model that says what it was told to say, and keeps the sizes that it was asked with."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward_all(self, images, sizes):
        self.sizes = sizes
        return self.said

    def forward(self, images):
        return DetectionOutput(self.said.logits[-1], self.said.boxes[-1])


def test_the_loss_asks_with_the_sizes_of_the_images():
    model, true = Said(found()), objects()
    terms = TASK.loss(model, Batch(torch.zeros(B, 3, 200, 200), true))
    assert model.sizes is true.sizes
    assert {n: float(t) for n, t in terms.items()} == {n: float(t.sum()) for n, t in TASK.terms(found(), true).items()}


def test_weights_and_costs_are_heard():
    said, true = found(), objects()
    plain = TASK.terms(said, true)
    double = build(dataclasses.replace(TASK.config, box_weight=10.0, giou_weight=4.0)).terms(said, true)
    torch.testing.assert_close(double, {"class": plain["class"], "box": plain["box"] * 2, "giou": plain["giou"] * 2})
    even = build(dataclasses.replace(TASK.config, no_object_weight=1.0)).terms(said, true)
    assert (even["class"] != plain["class"]).all()
    careless = match_queries(match_costs(said, to_relative(true), true.labels, (0.0, 5.0, 2.0)), true.labels)
    assert not torch.equal(
        careless, match_queries(match_costs(said, to_relative(true), true.labels, (9.0, 0.0, 0.0)), true.labels)
    )


def test_found_is_told_in_pixels_best_first():
    logits = torch.tensor([[[0.0, 3.0, 0.0], [5.0, 0.0, 9.0], [0.0, 0.0, 0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.75, 0.5, 0.1], [0.1, 0.2, 0.2, 0.4]]])
    rows = TASK.decode(DetectionOutput(logits, boxes), torch.tensor([[100, 200]]))
    p = logits.softmax(-1)[0, :, :2]
    torch.testing.assert_close(rows[0, 0], torch.tensor([50.0, 25.0, 150.0, 75.0, float(p[0, 1]), 1.0]))
    torch.testing.assert_close(rows[0, 1], torch.tensor([0.0, 0.0, 40.0, 40.0, float(p[2, 0]), 0.0]))
    torch.testing.assert_close(rows[0, 2], torch.tensor([0.0, 70.0, 100.0, 80.0, float(p[1, 0]), 0.0]))
    images = torch.zeros(1, 3, 100, 200)
    torch.testing.assert_close(TASK.predict(Said(DetectionOutput(logits[None], boxes[None])), images), rows)


def test_as_transformers_tells_it():
    from transformers.models.detr.image_processing_detr import DetrImageProcessor

    said, sizes = DetectionOutput(found().logits[0], found().boxes[0]), torch.randint(50, 300, (B, 2))
    outputs = type("Outputs", (), {"logits": said.logits, "pred_boxes": said.boxes})()
    expected = DetrImageProcessor().post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    for rows, one in zip(TASK.decode(said, sizes), expected, strict=True):
        order = one["scores"].argsort(descending=True)
        theirs = torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None].float()], 1)[order]
        torch.testing.assert_close(rows, theirs, rtol=1e-5, atol=1e-4)


def boxes(*rows):
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(rows[:, :4], rows[:, 4].astype(np.int64), np.zeros(len(rows), bool))


def test_rows_of_images_are_judged():
    """Images with and without objects, more and fewer findings than others, through the rows that evaluation carries
    about."""
    annotations = [boxes((0, 0, 10, 10, 1), (20, 20, 40, 50, 3)), boxes(), boxes((5, 5, 25, 25, 0))]
    sure = np.array([[0, 0, 10, 10, 0.9, 1], [20, 20, 40, 50, 0.8, 3]], np.float32)
    wrong = np.array([[0, 0, 9, 9, 0.7, 2]], np.float32)
    many = torch.cat([torch.rand(550, 6) * 0.2, torch.tensor([[5.0, 5.0, 25.0, 25.0, 0.95, 0.0]])])
    rows = torch.stack(
        [EVALUATOR.row(said, annotation) for said, annotation in zip((sure, wrong, many), annotations, strict=True)]
    )
    assert boxes_of_row(rows[0]).tolist() == torch.from_numpy(sure).tolist()
    assert len(boxes_of_row(rows[2])) == 500
    metrics = EVALUATOR.metrics(Predictions(rows, torch.zeros(0), annotations))
    assert metrics == average_precision([sure, wrong, many], annotations, K)
    assert metrics[TASK.metric.name] == pytest.approx(1.0)  # what is wrong is of a class that never occurs
    assert EVALUATOR.scores(rows, annotations).tolist() == [1, 0, 1]


def test_a_task_needs_classes():
    with pytest.raises(ValueError, match="number of classes"):
        build(Config())
