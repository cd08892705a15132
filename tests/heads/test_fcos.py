"""The one-stage head, its assignment, its loss and its answers are those of torchvision's FCOS."""

import dataclasses

import pytest
import torch
from test_models import small
from torch import nn

import vitrail
from vitrail.data.annotations.tiles import merge_boxes
from vitrail.errors import UsageError
from vitrail.heads.fcos import CellDetector, FcosConfig, cell_centers, choose_levels
from vitrail.tasks import detection
from vitrail.tasks.detection.fcos import assign_cells
from vitrail.types import Batch, DetectionTargets, Features

CLASSES, WIDTH, CANVAS, STRIDES = 3, 32, (96, 128), (8, 16, 32)
CONFIG = detection.Config(classes=CLASSES, head="dense", width=WIDTH, convs=2, candidates=5000)
KEYS = {"head": "dense", "width": 16, "convs": 1}


class Given(nn.Module):
    """A backbone whose maps are what it is given."""

    def __init__(self, maps, strides=STRIDES):
        super().__init__()
        self.maps, self.strides, self.map_widths = maps, strides, tuple(m.shape[1] for m in maps)

    def forward(self, images):
        return Features((), self.maps)


def theirs(maps):
    """A small FCOS of torchvision with random weights, nothing at zero, whose backbone gives the maps."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOSHead
    from torchvision.ops import FeaturePyramidNetwork

    pyramid = FeaturePyramidNetwork([m.shape[1] for m in maps], WIDTH)
    backbone = nn.Module()
    backbone.out_channels, backbone.pyramid = WIDTH, pyramid
    backbone.forward = lambda images: pyramid({str(i): m for i, m in enumerate(maps)})
    anchors = AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * len(STRIDES))
    head = FCOSHead(WIDTH, 1, CLASSES, 2)
    head.classification_head.conv = grouped(head.classification_head.conv)
    head.regression_head.conv = grouped(head.regression_head.conv)
    for p in (*head.parameters(), *pyramid.parameters()):
        p.data = p.data + 0.1 * torch.randn_like(p)
    nn.init.constant_(head.regression_head.bbox_reg.bias, 2.0)
    model = FCOS(backbone, CLASSES, anchor_generator=anchors, head=head, score_thresh=0.0, nms_thresh=0.6,
                 topk_candidates=5000, detections_per_img=5000)  # fmt: skip
    return model.eval()


def grouped(tower):
    """Their tower with groups of eight channels, as ours has them."""
    return nn.Sequential(*(nn.GroupNorm(WIDTH // 8, WIDTH) if isinstance(m, nn.GroupNorm) else m for m in tower))


def copied(model, maps):
    """Ours, with the weights of theirs."""
    ours = CellDetector(Given(maps), CLASSES, FcosConfig(WIDTH, 2, 8))
    kinds, edges = model.head.classification_head, model.head.regression_head
    pairs = [(ours.cls_tower, kinds.conv), (ours.reg_tower, edges.conv), (ours.cls_logits, kinds.cls_logits),
             (ours.bbox_reg, edges.bbox_reg), (ours.centerness, edges.bbox_ctrness)]  # fmt: skip
    for i in range(len(maps)):
        pairs += [(ours.neck.laterals[i], model.backbone.pyramid.inner_blocks[i][0]),
                  (ours.neck.smooth[i], model.backbone.pyramid.layer_blocks[i][0])]  # fmt: skip
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    return ours.eval()


def random_maps():
    g = torch.Generator().manual_seed(0)
    widths = zip((8, 12, 16), STRIDES, strict=True)
    return [torch.randn(2, c, CANVAS[0] // s, CANVAS[1] // s, generator=g) for c, s in widths]


def random_objects(counts=(9, 4), seed=1):
    """Objects of all sizes, many of them inside each other, at whole pixels."""
    g = torch.Generator().manual_seed(seed)
    most = max(1, *counts)
    scale = torch.tensor([CANVAS[1], CANVAS[0]])
    first = (torch.rand(len(counts), most, 2, generator=g) * 0.7 * scale).floor()
    extent = 3 + (torch.rand(len(counts), most, 2, generator=g) ** 2 * (scale - first - 4)).floor()
    there = torch.arange(most) < torch.tensor(counts)[:, None]
    labels = torch.randint(CLASSES, there.shape, generator=g).where(there, torch.tensor(-1))
    boxes = torch.cat([first, first + extent], -1) * there[..., None]
    return DetectionTargets(boxes, labels, torch.tensor([CANVAS] * len(counts)), torch.ones(len(counts)))


def as_theirs(objects):
    return [{"boxes": b[k >= 0], "labels": k[k >= 0]} for b, k in zip(objects.boxes, objects.labels, strict=True)]


def their_anchors(batch=2):
    """Squares of a stride around our centres, which theirs have half a cell off; and how many a level has."""
    grids = [(CANVAS[0] // s, CANVAS[1] // s) for s in STRIDES]
    half = [(cell_centers(grid, s), s / 2) for grid, s in zip(grids, STRIDES, strict=True)]
    anchors = torch.cat([torch.cat([c - h, c + h], 1) for c, h in half])
    return [anchors] * batch, [h * w for h, w in grids]


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    maps = random_maps()
    model = theirs(maps)
    return model, copied(model, maps)


def counted(objects, task):
    return task.count_targets(objects, len(objects.labels), lambda count: count)


def task_with(strides=STRIDES, config=CONFIG):
    task = detection.build(config)
    task.strides = strides
    return task


@pytest.mark.parametrize("counts", [(9, 4), (0, 3), (0, 0)])
def test_every_term_is_that_of_torchvision(pair, counts):
    model, ours = pair
    objects, task = random_objects(counts), task_with()
    outputs = model.head(list(model.backbone(None).values()))
    expected = model.compute_loss(as_theirs(objects), outputs, *their_anchors())
    found = task.terms(ours(torch.zeros(2, 3, *CANVAS)), counted(objects, task))
    for name, key in (("class", "classification"), ("giou", "bbox_regression"), ("centerness", "bbox_ctrness")):
        torch.testing.assert_close(found[name], expected[key], rtol=1e-5, atol=1e-6)


def test_every_cell_learns_from_the_same_object(pair):
    model, _ = pair
    seen = []
    model.head.compute_loss = lambda targets, outputs, anchors, chosen: seen.append(torch.stack(chosen))
    for seed in range(20):
        objects = random_objects((9, 7), seed)
        anchors, levels = their_anchors()
        model.compute_loss(as_theirs(objects), {}, anchors, levels)
        strides = torch.cat([torch.full((n,), float(s)) for n, s in zip(levels, STRIDES, strict=True)])
        centers = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
        assert torch.equal(assign_cells(centers, strides, objects, 1.5), seen[-1])
    del model.head.compute_loss
    assert (seen[-1] >= 0).any()


@torch.no_grad()
def test_answers_are_those_of_torchvision(pair):
    """Candidates and suppression: theirs from the same anchors, ours from a graph and `merge_boxes`."""
    model, ours = pair
    outputs = model.head(list(model.backbone(None).values()))
    anchors, levels = their_anchors()
    parts = {key: list(value.split(levels, dim=1)) for key, value in outputs.items()}
    expected = model.postprocess_detections(parts, [list(one.split(levels)) for one in anchors], [CANVAS] * 2)
    rows = task_with().decode(ours(torch.zeros(2, 3, *CANVAS)), torch.tensor([CANVAS] * 2))
    for mine, other in zip(rows, expected, strict=True):
        kept = mine[merge_boxes(mine[:, :4], mine[:, 4], mine[:, 5], 0.6)]
        torch.testing.assert_close(kept[:, 4], other["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(kept[:, :4], other["boxes"], rtol=1e-5, atol=1e-4)
        assert torch.equal(kept[:, 5].long(), other["labels"])


def test_cells_of_the_padding_answer_for_nothing(pair):
    _, ours = pair
    with torch.no_grad():
        rows = task_with().decode(ours(torch.zeros(2, 3, *CANVAS)), torch.tensor([[40, 50], CANVAS]))
    found = rows[0][rows[0, :, 4] > 0]
    assert len(found) == CLASSES * (5 * 6 + 3 * 3 + 1 * 2 - 3)  # cells with their centres on the image
    assert (found[:, 2] <= 50).all()
    assert (found[:, 3] <= 40).all()


def test_pieces_add_up_to_the_batch(pair):
    """Micro-batches weighed by their images, whether or not they have objects."""
    _, ours = pair
    task = task_with()
    objects = counted(random_objects((9, 0)), task)
    output = ours(torch.zeros(2, 3, *CANVAS))
    whole, total = task.terms(output, objects), {}
    for i in range(2):
        piece = output._replace(**{k: getattr(output, k)[i : i + 1] for k in ("logits", "reach", "centerness")})
        for name, term in task.terms(piece, DetectionTargets(*(t[i : i + 1] for t in objects))).items():
            total[name] = total.get(name, 0) + term / 2
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)


def test_processes_count_cells_together():
    """The divisor is the mean over the global batch, whatever share of it a process has."""
    task = task_with()
    objects = random_objects((9, 4, 0, 2))
    alone = [DetectionTargets(*(t[i : i + 2] for t in objects)) for i in (0, 2)]
    counts = []
    for part in alone:
        task.count_targets(part, 4, lambda count: counts.append(count) or count)
    both = task.count_targets(alone[0], 4, lambda count: sum(counts)).mean_objects
    assert torch.equal(both, counted(objects, task).mean_objects[:2])


@pytest.mark.parametrize("family", ["resnet", "swin", pytest.param("pvt_v2", marks=pytest.mark.slow)])
def test_learns_on_a_pyramid(family):
    """A few steps: finite, falling, every parameter of the head has its part; canvases need not be whole cells."""
    task = detection.build(detection.Config(classes=3, **KEYS))
    model = task.assemble(small(family)).train()
    objects = random_objects()._replace(sizes=torch.tensor([(64, 64)] * 2))
    objects = counted(objects._replace(boxes=objects.boxes.clamp(max=60)), task)
    batch, losses = Batch(torch.randn(2, 3, 64, 64), objects), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(sum(task.loss(model, batch).values()))
        losses[-1].backward()
        optimizer.step()
    assert torch.isfinite(torch.stack(losses)).all()
    assert losses[-1] < losses[0]
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert task.predict(model.eval(), torch.randn(1, 3, 64, 64)).shape[2] == 6


def test_a_plain_vit_has_the_pyramid_of_vitdet():
    task = detection.build(detection.Config(classes=3, neck="simple", stride=8, **KEYS))
    model = task.assemble(vitrail.backbone("vit/tiny", width=32, depth=2, heads=4, patch=16, size=(96, 128)))
    assert model.strides == (8, 16, 32)
    objects = counted(random_objects(), task)
    for size in ((96, 128), (70, 50)):
        model.zero_grad()
        sum(task.loss(model, Batch(torch.randn(2, 3, *size), objects)).values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_sixteen_bits():
    task = detection.build(detection.Config(classes=3, **KEYS))
    model = task.assemble(small("resnet"))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, *CANVAS))
        terms = task.terms(output, counted(random_objects(), task))
    assert output.logits.dtype == output.reach.dtype == torch.float32
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_which_maps_are_used():
    assert choose_levels((4, 8, 16, 32), 0) == (1, 2, 3)
    assert choose_levels((4, 8, 16, 32), 4) == (0, 1, 2, 3)
    assert choose_levels((2, 4), 0) == (1,)
    with pytest.raises(UsageError, match="stride 64"):
        choose_levels((16, 32), 64)


@pytest.mark.parametrize(("keys", "words"), [
    ({"head": "dense", "queries": 20}, "task.queries is a setting of head detr"),
    ({"head": "detr", "radius": 2.5}, "task.radius is a setting of head dense"),
])  # fmt: skip
def test_settings_of_the_other_head_are_refused(keys, words):
    with pytest.raises(UsageError, match=words):
        detection.build(dataclasses.replace(detection.Config(classes=3), **keys))
