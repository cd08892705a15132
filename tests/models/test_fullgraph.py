"""torch.compile takes every model whole, in training and in evaluation, and needs few graphs for batches of any size.

The backend is "eager": the trace is what is tested, and runs anywhere."""

import pytest
import test_denoisers
import torch
from test_models import FAMILIES, SIZES, small

from vitrail.heads.linear import Classifier
from vitrail.heads.segment import HeadConfig, Segmenter
from vitrail.tasks import detection

BATCHES = (2, 2, 4, 3, 5)
MOST = 3  # graphs: of one size, then of any; some families have one more
MASKS = ("linear", "fpn", "pup", "upernet", "mask")
BOXES = ("detr", "dense")
SMALL_DETR = {"queries": 5, "width": 16, "heads": 2, "hidden": 24, "decoder": 2, "encoder": 1}
SMALL_DENSE = {"width": 16, "convs": 1}
QUICK = {("vit", "train"), ("dit", "eval"), ("dense vit", "eval")}  # the others are slow


def graphs(model, inputs, mode):
    """How many graphs torch makes of a model for batches of several sizes; a break of the graph is an error."""
    made = []

    def backend(graph, examples):
        made.append(graph)
        return graph.forward

    torch.compiler.reset()  # what other tests have compiled counts towards torch's limit
    compiled = torch.compile(model.train(mode == "train"), backend=backend, fullgraph=True)
    with torch.set_grad_enabled(mode == "train"):
        for batch in BATCHES:
            compiled(*inputs(batch))
    return len(made)


def images(family):
    size = SIZES.get(family, [(64, 64)])[0]
    return lambda batch: (torch.randn(batch, 3, *size),)


def cases(names):
    both = [(name, mode) for name in names for mode in ("train", "eval")]
    return pytest.mark.parametrize(
        ("name", "mode"), [pytest.param(*c, marks=() if c in QUICK else pytest.mark.slow) for c in both]
    )


@cases(FAMILIES)
def test_every_backbone(name, mode):
    assert graphs(small(name), images(name), mode) <= MOST


@cases(FAMILIES)
def test_every_classifier(name, mode):
    assert graphs(Classifier(small(name), 3), images(name), mode) <= MOST


@cases([f"{head} {family}" for family in FAMILIES for head in MASKS])
def test_every_segmenter(name, mode):
    head, family = name.split()
    width = 16 if head in ("fpn", "pup", "upernet") else 0
    model = Segmenter(small(family), HeadConfig(head, 3, width, auxiliary=head == "upernet"))
    assert graphs(model, images(family), mode) <= MOST


@cases([f"{head} {family}" for family in FAMILIES for head in BOXES])
def test_every_detector(name, mode):
    head, family = name.split()
    keys = SMALL_DETR if head == "detr" else SMALL_DENSE
    model = detection.build(detection.Config(classes=3, head=head, **keys)).assemble(small(family))
    assert graphs(model, images(family), mode) <= MOST


@cases(test_denoisers.FAMILIES)
def test_every_denoiser(name, mode):
    assert graphs(test_denoisers.small(name), test_denoisers.asked, mode) <= MOST
