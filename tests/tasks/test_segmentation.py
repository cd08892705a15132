"""The terms of the loss are the published ones, and neither cutting a batch up nor 16-bit numbers change what they
are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.contracts import Predictions
from vitrail.data.dataset import IGNORE
from vitrail.errors import UsageError
from vitrail.models import vit
from vitrail.tasks.segmentation import Config, build, dice_loss
from vitrail.types import Batch

VIT = vit.Config(width=32, depth=2, heads=4, patch=8, size=(32, 32))


class Fixed(nn.Module):
    """Says the logits it is given as images, and half of them aside."""

    def forward(self, images):
        return images

    def forward_all(self, images):
        return images, images / 2


def drawn(classes=4, count=3, ignored=0.3):
    torch.manual_seed(0)
    annotation = torch.randint(classes, (count, 6, 5))
    annotation[torch.rand(annotation.shape) < ignored] = IGNORE
    return torch.randn(count, classes, 6, 5), annotation


def terms(logits, annotation, **keys):
    return build(Config(classes=logits.shape[1], **keys)).loss(Fixed(), Batch(logits, annotation))


def test_cross_entropy_is_torchs_over_all_pixels():
    logits, annotation = drawn()
    found = terms(logits, annotation)
    assert set(found) == {"cross_entropy", "auxiliary"}
    wanted = F.cross_entropy(logits, annotation, ignore_index=IGNORE, reduction="sum") / annotation.numel()
    torch.testing.assert_close(found["cross_entropy"], wanted)
    aside = F.cross_entropy(logits / 2, annotation, ignore_index=IGNORE, reduction="sum") / annotation.numel()
    torch.testing.assert_close(found["auxiliary"], 0.4 * aside)


def test_class_weights_multiply():
    logits, annotation = drawn()
    weights = (0.5, 1.0, 2.0, 4.0)
    wanted = (
        F.cross_entropy(logits, annotation, torch.tensor(weights), ignore_index=IGNORE, reduction="sum")
        / annotation.numel()
    )
    torch.testing.assert_close(terms(logits, annotation, class_weights=weights)["cross_entropy"], wanted)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_by_its_formula(gamma):
    logits, annotation = drawn()
    known = annotation != IGNORE
    p = logits.softmax(1).gather(1, annotation.where(known, 0)[:, None])[:, 0]
    wanted = (-((1 - p) ** gamma) * p.log())[known].sum() / annotation.numel()
    torch.testing.assert_close(terms(logits, annotation, focal=gamma)["cross_entropy"], wanted)
    sure = (100.0 * F.one_hot(annotation.where(known, 0), 4).movedim(3, 1)).requires_grad_()
    terms(sure, annotation, focal=gamma)["cross_entropy"].backward()
    assert bool(sure.grad.isfinite().all())


def test_dice_by_its_formula():
    logits, annotation = drawn()
    each = []
    for z, t in zip(logits.double(), annotation, strict=True):
        p, known = z.softmax(0), t != IGNORE
        of_class = []
        for k in t[known].unique():
            mine = (t == k).double()
            of_class.append(1 - 2 * (p[k] * mine).sum() / (p[k][known].sum() + mine.sum()))
        each.append(torch.stack(of_class).mean())
    torch.testing.assert_close(dice_loss(logits, annotation), torch.stack(each).mean().float())
    torch.testing.assert_close(terms(logits, annotation, dice=0.3)["dice"], 0.3 * dice_loss(logits, annotation))
    right = 50.0 * F.one_hot(annotation.where(annotation != IGNORE, 0), 4).movedim(3, 1)
    torch.testing.assert_close(dice_loss(right, annotation), torch.tensor(0.0))


ALL = {"dice": 0.5, "focal": 2.0, "class_weights": (1.0, 2.0, 3.0, 4.0)}


def test_images_of_which_nothing_is_known_cost_nothing():
    logits, annotation = drawn()
    annotation[:] = IGNORE
    logits.requires_grad_()
    found = terms(logits, annotation, **ALL)
    assert {name: float(term.detach()) for name, term in found.items()} == {
        "cross_entropy": 0.0,
        "dice": 0.0,
        "auxiliary": 0.0,
    }
    sum(found.values()).backward()
    assert not logits.grad.any()


def test_the_pieces_of_a_batch_make_its_loss_and_its_gradient():
    """Each piece by its share of the images, though one is ignored altogether, and one nearly."""
    torch.manual_seed(0)
    task = build(Config(classes=4, head="upernet", width=16, dropout=0.0, **ALL))
    model = task.assemble(vit.build(VIT)).double()
    images, annotation = torch.randn(5, 3, 24, 32, dtype=torch.double), torch.randint(4, (5, 24, 32))
    annotation[1], annotation[2, 1:] = IGNORE, IGNORE
    results = []
    for pieces in ([5], [1, 3, 1]):
        model.zero_grad()
        total = {}
        for x, t in zip(images.split(pieces), annotation.split(pieces), strict=True):
            found = task.loss(model, Batch(x, t))
            (sum(found.values()) * len(x) / 5).backward()
            total = {name: total.get(name, 0) + float(term.detach()) * len(x) / 5 for name, term in found.items()}
        results.append((total, torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)  # terms are float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_terms_are_float32_under_autocast(dtype):
    """Of large logits, and of more pixels than half precision can count."""
    torch.manual_seed(0)
    logits, annotation = (64 * torch.randn(1, 4, 300, 300)).to(dtype), torch.randint(4, (1, 300, 300))
    with torch.autocast("cpu", dtype):
        found = terms(logits, annotation, **ALL)
    exact = terms(logits.float(), annotation, **ALL)
    for name, term in found.items():
        assert term.dtype == torch.float32
        assert bool(term.isfinite())
        torch.testing.assert_close(term, exact[name])


def test_model_under_autocast_learns():
    task = build(Config(classes=3, head="mask", dice=1.0))
    model = task.assemble(vit.build(VIT))
    with torch.autocast("cpu", torch.bfloat16):
        found = task.loss(model, Batch(torch.randn(2, 3, 32, 24), torch.randint(3, (2, 32, 24))))
    sum(found.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_masks_of_bytes_are_targets():
    task = build(Config(classes=3))
    masks = torch.tensor([[[0, 2], [255, 1]]], dtype=torch.uint8)
    assert task.targets(masks).dtype == torch.int64
    logits = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(
        *(task.loss(Fixed(), Batch(logits, t))["cross_entropy"] for t in (masks, task.targets(masks)))
    )


@pytest.mark.parametrize(
    ("head", "auxiliary", "second"), [("fpn", 0.4, False), ("upernet", 0.4, True), ("upernet", 0.0, False)]
)
def test_there_is_an_auxiliary_head_where_it_has_a_weight(head, auxiliary, second):
    task = build(Config(classes=3, head=head, width=16, auxiliary=auxiliary))
    model = task.assemble(vit.build(VIT))
    assert ("auxiliary" in model.heads) == second
    found = task.loss(model, Batch(torch.randn(2, 3, 16, 24), torch.randint(3, (2, 16, 24))))
    assert ("auxiliary" in found) == second


def test_predictions_are_probabilities_of_pixels():
    task = build(Config(classes=3))
    model = task.assemble(vit.build(VIT)).eval()
    said = task.predict(model, torch.randn(2, 3, 20, 28))
    assert said.shape == (2, 3, 20, 28)
    torch.testing.assert_close(said.sum(1), torch.ones(2, 20, 28))


def test_rows_become_metrics():
    task = build(Config(classes=3))
    annotation = np.array([[0, 1, 255], [2, 2, 1]], np.uint8)
    row = task.evaluator().row(
        np.flipud(np.flipud(annotation).copy()), annotation
    )  # the first with strides that torch does not know
    assert row.tolist() == [1, 2, 2] * 3
    found = task.evaluator().metrics(Predictions(row[None], torch.zeros(0)))
    assert task.metric.name in found
    assert found["miou"] == 1.0


@pytest.mark.parametrize(("keys", "said"), [
    ({"classes": 1}, "2 to 255 classes"), ({"classes": 256}, "2 to 255 classes"),
    ({"classes": 3, "multi_label": True}, "one class"),
    ({"classes": 3, "class_weights": (1.0, 2.0)}, "2 numbers for 3 classes"),
])  # fmt: skip
def test_says_what_cannot_be(keys, said):
    with pytest.raises(UsageError, match=said):
        build(Config(**keys))


def test_needs_classes():
    with pytest.raises(ValueError, match="classes"):
        build(Config())


def test_learns_an_image_by_heart():
    """A few steps on halves of two colours are enough to tell them apart."""
    torch.manual_seed(0)
    task = build(Config(classes=2, head="fpn", width=16, dice=0.5, dropout=0.0))
    model = task.assemble(vit.build(VIT))
    annotation = torch.zeros(2, 32, 32, dtype=torch.int64)
    annotation[0, :, 16:], annotation[1, 16:] = 1, 1
    images = (annotation[:, None].float() * 2 - 1).expand(-1, 3, -1, -1) + 0.1 * torch.randn(2, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        sum(task.loss(model, Batch(images, annotation)).values()).backward()
        optimizer.step()
    said = task.predict(model.eval(), images).argmax(1).to(torch.uint8)
    rows = torch.stack(
        [task.evaluator().row(s.numpy(), t.to(torch.uint8).numpy()) for s, t in zip(said, annotation, strict=True)]
    )
    assert task.evaluator().metrics(Predictions(rows, torch.zeros(0)))["miou"] > 0.95
