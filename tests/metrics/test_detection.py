"""Average precision is COCO's own count of it."""

import contextlib
import io

import numpy as np
import pytest
import torch

from vitrail.data.dataset import Boxes
from vitrail.metrics.detection import average_precision, f1

K = 4


def scene(seed=0, images=12):
    """Objects of all sizes, some of them crowds, and findings that are near, wrong, twice or from nowhere; class 3
    never occurs."""
    r = np.random.default_rng(seed)
    annotations, found = [], []
    for i in range(images):
        n = int(r.integers(0, 6)) if i else 0
        corner, extent = r.uniform(0, 300, (n, 2)), r.choice([14, 50, 140], (n, 1)) * r.uniform(0.7, 1.3, (n, 2))
        boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
        labels, crowd = r.integers(0, 3, n), r.random(n) < 0.15
        annotations.append(Boxes(boxes, labels, crowd))
        rows = [
            [*(b + r.normal(0, 4, 4)), r.random(), k if r.random() < 0.85 else 3 - k]
            for b, k in zip(boxes, labels, strict=True)
        ]
        rows += [[*(b + r.normal(0, 9, 4)), r.random(), k] for b, k in zip(boxes[:2], labels[:2], strict=True)]
        rows += [[*at, *(at + 40), r.random(), r.integers(K)] for at in r.uniform(0, 300, (3, 2))]
        found.append(np.array(rows, np.float32).reshape(-1, 6))
    return found, annotations


def by_pycocotools(found, annotations):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    whole, rows = [], []
    for i, annotation in enumerate(annotations):
        for (left, top, right, bottom), k, crowd in zip(
            annotation.boxes.tolist(), annotation.labels.tolist(), annotation.crowd.tolist(), strict=True
        ):
            box = [left, top, right - left, bottom - top]
            area = box[2] * box[3]
            whole.append(
                {
                    "id": len(whole) + 1,
                    "image_id": i,
                    "category_id": k,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for left, top, right, bottom, score, k in found[i].tolist():
            rows.append(
                {"image_id": i, "category_id": int(k), "bbox": [left, top, right - left, bottom - top], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images, classes = ([{"id": i} for i in range(n)] for n in (len(annotations), K))
        coco.dataset = {"images": images, "annotations": whole, "categories": classes}
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools(seed):
    found, annotations = scene(seed)
    ours, theirs = average_precision(found, annotations, K), by_pycocotools(found, annotations)
    names = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [ours[n] for n in names] == pytest.approx(theirs.stats[:6].tolist(), abs=1e-6)
    assert ours["AR100"] == pytest.approx(theirs.stats[8], abs=1e-6)
    precision = theirs.eval["precision"][:, :, :, 0, -1].clip(0)
    assert ours["per_class"]["ap"] == pytest.approx(precision.mean((0, 1)).tolist(), abs=1e-6)
    assert ours["per_class"]["ap50"] == pytest.approx(precision[0].mean(0).tolist(), abs=1e-6)
    assert np.allclose(ours["curves"], precision[0].T, atol=1e-6)
    assert ours["per_class"]["objects"] == [
        int(sum((t.labels[~t.crowd] == k).sum() for t in annotations)) for k in range(K)
    ]
    assert ours["count"] == 12
    assert 0.1 < ours["mAP"] < 0.9


def test_perfect_findings_are_worth_one():
    _, annotations = scene()
    found = [
        torch.from_numpy(np.column_stack([t.boxes, np.ones(len(t.boxes)), t.labels]))[~t.crowd] for t in annotations
    ]
    judged = average_precision(found, annotations, K)
    assert judged["mAP"] == judged["AP50"] == judged["AR100"] == pytest.approx(1.0)
    assert judged["per_class"]["ap"] == pytest.approx([1, 1, 1, 0])
    assert len(judged["curves"]) == K
    assert all(len(curve) == 101 for curve in judged["curves"])


def test_findings_in_a_crowd_are_not_wrong():
    crowd = Boxes(
        np.array([[0, 0, 100, 100], [200, 200, 220, 220]], np.float32), np.array([0, 0]), np.array([True, False])
    )
    rows = np.array([[10, 10, 30, 30, 0.9, 0], [50, 50, 80, 80, 0.8, 0], [200, 200, 220, 220, 0.7, 0]], np.float32)
    judged = average_precision([rows], [crowd], 1)
    assert judged["mAP"] == pytest.approx(1.0)
    assert judged["per_class"]["objects"] == [1]


def test_nothing_found_and_nothing_there():
    nothing, one = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)), scene()[1][1]
    empty = np.zeros((0, 6), np.float32)
    pairs = [(empty, nothing), (scene()[0][0], nothing), (empty, one)]
    judged = [average_precision([rows], [annotation], K) for rows, annotation in pairs]
    assert [(j["mAP"], j["AP50"], j["AR100"]) for j in judged] == [(0, 0, 0)] * 3
    assert "AP_small" not in judged[0]
    assert judged[0]["per_class"] == {"ap": [0] * K, "ap50": [0] * K, "objects": [0] * K}


def test_f1_of_an_image():
    edges = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 90, 90]], np.float32)
    annotation = Boxes(edges, np.array([0, 0, 1]), np.array([False, False, True]))
    first, second, late = [0, 0, 10, 12, 0.9, 0], [0, 0, 10, 11, 0.8, 0], [0, 0, 10, 10, 0.7, 0]
    cases = [
        ([], 0.0),
        ([first], 2 / 3),  # one of two
        ([first, second], 1.0),  # the second takes the object that is left
        ([first, second, late], 4 / 5),  # nothing is left
        ([first, [0, 0, 10, 10, 0.2, 0]], 2 / 3),  # too unsure to count
        ([first, [0, 0, 10, 10, 0.8, 1]], 2 / 4),  # of the wrong class
        ([first, [60, 60, 70, 70, 0.8, 1]], 2 / 3),  # in a crowd of its class
        ([first, [60, 60, 70, 70, 0.8, 0]], 2 / 4),  # in a crowd of another
    ]
    for rows, expected in cases:
        assert f1(np.array(rows, np.float32).reshape(-1, 6), annotation) == pytest.approx(expected)
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    assert f1(np.zeros((0, 6), np.float32), nothing) == 1.0
    assert f1(np.array([first], np.float32), nothing) == 0.0
