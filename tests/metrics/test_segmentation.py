"""Counted by hand, and as torchmetrics counts."""

import pytest
import torch

from vitrail.metrics.segmentation import count_pixels, segmentation_metrics


def images(classes, count=4, seed=0, ignored=True):
    """Label maps, said and true, that agree in about half of the pixels; a third of the truth may be ignored."""
    g = torch.Generator().manual_seed(seed)
    annotation = torch.randint(classes, (count, 9, 14), generator=g)
    said = torch.where(
        torch.rand(annotation.shape, generator=g) < 0.5,
        annotation,
        torch.randint(classes, annotation.shape, generator=g),
    )
    if ignored:
        annotation[torch.rand(annotation.shape, generator=g) < 0.3] = 255
    return said.to(torch.uint8), annotation.to(torch.uint8)


def judged(said, annotation, classes):
    return segmentation_metrics(
        torch.stack([count_pixels(s, t, classes) for s, t in zip(said, annotation, strict=True)])
    )


def test_counts_by_hand():
    said = torch.tensor([[0, 1, 1], [2, 2, 0]], dtype=torch.uint8)
    annotation = torch.tensor([[0, 1, 2], [2, 255, 1]], dtype=torch.uint8)
    row = count_pixels(said, annotation, 4)
    assert row.dtype == torch.int64
    assert row.tolist() == [1, 1, 1, 0, 2, 2, 1, 0, 1, 2, 2, 0]  # intersection, said, true


def test_numbers_by_hand():
    said = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 2]]], dtype=torch.uint8)
    annotation = torch.tensor([[[0, 1, 1, 255]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    found = judged(said, annotation, 4)
    assert found["per_class"]["iou"] == pytest.approx([4 / 6, 1 / 2, 0, 0])
    assert found["per_class"]["dice"] == pytest.approx([8 / 10, 2 / 3, 0, 0])
    assert found["per_class"]["precision"] == pytest.approx([4 / 5, 1, 0, 0])
    assert found["per_class"]["recall"] == pytest.approx([4 / 5, 1 / 2, 0, 0])
    assert found["per_class"]["pixels"] == [5, 2, 0, 0]
    assert found["miou"] == pytest.approx(
        (4 / 6 + 1 / 2 + 0) / 3
    )  # class 2 was said and is wrong, class 3 does not occur
    assert found["mean_accuracy"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    assert found["dice"] == pytest.approx((8 / 10 + 2 / 3 + 0) / 3)
    assert found["image_dice"] == pytest.approx(
        (2 / 3 + 0) / 2
    )  # class 1 in the first, class 2 in the second, class 0 in none
    assert found["count"] == 2


@pytest.mark.parametrize("classes", [2, 3, 19])
@pytest.mark.parametrize("ignored", [False, True])
def test_agrees_with_torchmetrics(classes, ignored):
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    said, annotation = images(classes, seed=classes, ignored=ignored)
    if classes == 19:  # some classes nowhere
        said, annotation = (torch.where((x < 16) | (x == 255), x, 3).to(torch.uint8) for x in (said, annotation))
    found = judged(said, annotation, classes)
    asked = {
        "miou": MulticlassJaccardIndex(classes, ignore_index=255),
        "dice": MulticlassF1Score(classes, ignore_index=255),
        "mean_accuracy": MulticlassAccuracy(classes, ignore_index=255),
        "pixel_accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=255),
    }
    for name, metric in asked.items():
        assert found[name] == pytest.approx(float(metric(said.long(), annotation.long())), rel=1e-5), name
    each = MulticlassJaccardIndex(classes, average="none", ignore_index=255)(said.long(), annotation.long())
    assert found["per_class"]["iou"] == pytest.approx(each.nan_to_num(0).tolist(), rel=1e-5)


def test_dice_of_images_agrees_with_torchmetrics():
    from torchmetrics.functional.classification import multiclass_f1_score

    said, annotation = images(3, ignored=False)
    each = [
        multiclass_f1_score(s.long(), t.long(), 3, average="none")[1:].mean()
        for s, t in zip(said, annotation, strict=True)
    ]
    assert judged(said, annotation, 3)["image_dice"] == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_images_without_anything_known_or_in_the_foreground_are_numbers():
    empty = torch.zeros(1, 4, 4, dtype=torch.uint8)
    ignored = judged(empty, empty + 255, 3)
    assert (ignored["miou"], ignored["pixel_accuracy"], ignored["image_dice"], ignored["count"]) == (0.0, 0.0, 0.0, 1)
    background = judged(empty, empty, 3)
    assert (background["miou"], background["dice"], background["image_dice"]) == (1.0, 1.0, 0.0)
    both = judged(torch.cat([empty, empty + 1]), torch.cat([empty, empty + 1]), 3)
    assert both["image_dice"] == 1.0  # of the second image alone


def test_rows_of_large_images_stay_exact():
    row = torch.tensor([[2**24 + 1, 0, 2**24 + 1, 1, 2**24 + 2, 0]])
    assert segmentation_metrics(row)["per_class"]["recall"][0] == (2**24 + 1) / (2**24 + 2)
