"""The detector is DETR to the last bit where it says so, and sits on any backbone."""

import dataclasses

import pytest
import torch
from quick import every_third
from test_models import SIZES, SMALL, small
from torch import nn

import vitrail
from vitrail.engine.optim import depth_levels
from vitrail.errors import UsageError
from vitrail.heads.box_positions import cells_inside, sine_positions, sines_of_boxes
from vitrail.heads.detect import Detector, DetectorConfig, choose_maps
from vitrail.heads.queries import spread_boxes
from vitrail.layers.attention import named_attentions
from vitrail.tasks import detection
from vitrail.types import Batch, DetectionTargets, Features

DETR = DetectorConfig(
    queries=7, kind="slots", width=32, heads=4, encoder=2, decoder=3, hidden=48, dropout=0.0, stride=32
)
OURS = dataclasses.replace(DETR, kind="anchors", encoder=1, decoder=2)
CANVAS, IMAGES = (160, 224), torch.tensor([[160, 150], [100, 224], [97, 31]])


class Given(nn.Module):
    """A backbone whose maps are what it is given: images already are the map, stretched."""

    def __init__(self, *maps, strides=(32,)):
        super().__init__()
        self.maps, self.strides, self.map_widths = maps, strides, tuple(m.shape[1] for m in maps)
        self.config = type("Config", (), {"size": CANVAS})()

    def forward(self, images):
        return Features((), self.maps)


def theirs():
    """A tiny DETR of transformers with random weights, nothing at zero or one."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    stages = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    model = DetrForObjectDetection(DetrConfig(
        use_timm_backbone=False, backbone_config=stages, d_model=32, num_queries=7, num_labels=5, encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, dropout=0.0,
    ))  # fmt: skip
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


NAMES = {  # of transformers, in ours
    "model.input_projection": "input_proj.0", "model.encoder.layers": "encoder", "model.decoder.layers": "decoder",
    "model.decoder.layernorm": "norm", "model.query_position_embeddings.weight": "queries.places",
    "class_labels_classifier": "class_embed", "bbox_predictor.layers.0": "bbox_embed.0",
    "bbox_predictor.layers.1": "bbox_embed.2",
    "bbox_predictor.layers.2": "bbox_embed.4", "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "proj",
    "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3", "self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2",
    "encoder_attn": "cross_attn",
}  # fmt: skip


def renamed(state):
    found = {}
    for key, value in state.items():
        if ".backbone." not in key:
            last = "norm2" if ".encoder." in key else "norm3"
            for old, new in [*NAMES.items(), ("final_layer_norm", last)]:
                key = key.replace(old, new)
            found[key] = value
    return found


def copied(model, features):
    ours = Detector(Given(features), 5, DETR)
    ours.load_state_dict(renamed(model.state_dict()))
    return ours.eval()


def close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("padded", [True, False])
def test_equals_transformers_layer_by_layer(padded):
    """Their own way to auxiliary outputs feeds the normed state into the next layer, which the published model does
    not; so these come from hooks on a model without it."""
    model, images = theirs(), torch.randn(3, 3, *CANVAS)
    states = []
    for layer in model.model.decoder.layers:
        layer.register_forward_hook(lambda m, given, out: states.append(out))
    mask = torch.zeros(3, *CANVAS)
    for one, (h, w) in zip(mask, IMAGES if padded else [CANVAS] * 3, strict=True):
        one[:h, :w] = 1
    expected = model(images, pixel_mask=mask)
    states = model.model.decoder.layernorm(torch.stack(states))
    found = copied(model, model.model.backbone(images, mask)[-1][0]).forward_all(images, IMAGES if padded else None)
    close(found.logits[-1], expected.logits)
    close(found.boxes[-1], expected.pred_boxes)
    close(found.logits, model.class_labels_classifier(states))
    close(found.boxes, model.bbox_predictor(states).sigmoid())


def test_parameters_as_published():
    """41.5 million: facebook/detr-resnet-50, whose frozen norms of the backbone are no parameters."""
    published = {
        "queries": 100,
        "kind": "slots",
        "encoder": 6,
        "decoder": 6,
        "width": 256,
        "hidden": 2048,
        "dropout": 0.1,
        "stride": 32,
    }
    with torch.device("meta"):
        model = detection.build(detection.Config(classes=91, **published)).assemble(vitrail.backbone("resnet/50"))
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - norms == 41_524_768


def test_positions_at_padding_are_those_of_transformers():
    from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

    down, across = cells_inside(IMAGES[:, 0], 160, 5), cells_inside(IMAGES[:, 1], 224, 7)
    seen = down[:, :, None] & across[:, None]
    expected = DetrSinePositionEmbedding(16, normalize=True)(seen[:, None].shape, "cpu", torch.float32, seen)
    found = sine_positions(down, across, 32)
    torch.testing.assert_close(found[seen.flatten(1)], expected.flatten(2).mT[seen.flatten(1)], rtol=1e-5, atol=1e-6)
    assert seen.sum((1, 2)).tolist() == [25, 28, 4]  # a cell shows the image where its nearest pixel does


@torch.no_grad()
@pytest.mark.parametrize("design", [DETR, OURS])
def test_what_lies_in_the_padding_changes_nothing(design):
    maps = torch.randn(3, 8, 10, 14), torch.randn(3, 8, 5, 7)
    design = dataclasses.replace(design, stride=16)
    model = Detector(Given(*maps, strides=(16, 32)), 5, design).eval()
    nn.init.normal_(model.bbox_embed[-1].weight)
    for part in model.queries.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)
    images = torch.zeros(3, 3, *CANVAS)
    before = model.forward_all(images, IMAGES)
    for m in maps:
        h, w = m.shape[2:]
        for i, (height, width) in enumerate(IMAGES.tolist()):
            m[i, :, -(-height * h // CANVAS[0]) :] = 1e3
            m[i, :, :, -(-width * w // CANVAS[1]) :] = 1e3
    for a, b in zip(model.forward_all(images, IMAGES), before, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(model.forward_all(images).logits, before.logits)


@torch.no_grad()
def test_an_image_alone_and_on_a_canvas_are_found_alike():
    """Boxes are shares of the unpadded image: the same cells on a larger canvas say the same."""
    fmap = torch.randn(1, 8, 4, 6)
    alone = Detector(Given(fmap), 5, OURS).eval()
    nn.init.normal_(alone.bbox_embed[-1].weight)
    for m in alone.queries.bias.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight)
    expected = alone(torch.zeros(1, 3, 128, 192))
    wider = Detector(Given(torch.nn.functional.pad(fmap, (0, 3, 0, 2), value=9.0)), 5, OURS).eval()
    wider.load_state_dict(alone.state_dict())
    found = wider(torch.zeros(1, 3, 192, 288), torch.tensor([[128, 192]]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("design", [DETR, OURS])
def test_forward_is_the_last_layer_and_attention_can_be_looked_at(design):
    model = Detector(Given(torch.randn(2, 8, 5, 7)), 5, design).eval()
    images = torch.zeros(2, 3, *CANVAS)
    found, each = model(images), model.forward_all(images)
    assert found.logits.shape == (2, 7, 6)
    assert found.boxes.shape == (2, 7, 4)
    assert torch.equal(found.logits, each.logits[-1])
    assert torch.equal(found.boxes, each.boxes[-1])
    looked = []
    last = named_attentions(model)[f"decoder.{design.decoder - 1}.cross_attn"]
    last.register_forward_pre_hook(lambda m, given: looked.append(m.weights(*given)))
    model(images)
    assert looked[0].shape == (2, 4, 7, 35)
    torch.testing.assert_close(looked[0].sum(-1), torch.ones(2, 4, 7))


def test_which_maps_are_looked_at():
    assert choose_maps((4, 8, 16, 32), 0, (64, 64)) == (1, 2, 3)
    assert choose_maps((4, 8, 16, 32), 0, (800, 1333)) == (3,)
    assert choose_maps((4, 8, 16, 32), 16, (64, 64)) == (2, 3)
    assert choose_maps((16,), 0, (64, 64)) == (0,)
    with pytest.raises(UsageError, match="stride 32"):
        choose_maps((16,), 32, (224, 224))


def test_anchors_begin_all_over_the_image():
    boxes = spread_boxes(36)
    assert boxes.shape == (36, 4)
    assert len((boxes[:, :2] * 3).long().unique(dim=0)) == 9  # every ninth of the image has one
    assert len(torch.unique(sines_of_boxes(boxes, 32), dim=0)) == 36


def objects(size):
    height, width = size
    boxes = torch.tensor(
        [[[4.0, 8.0, 30.0, 28.0], [20.0, 20.0, width, height]], [[2.0, 3.0, 22.0, 43.0], [0.0, 0.0, 0.0, 0.0]]]
    )
    return DetectionTargets(
        boxes, torch.tensor([[0, 2], [1, -1]]), torch.tensor([size, (height - 8, width - 8)]), torch.full((2,), 1.5)
    )


@pytest.mark.parametrize("family", every_third(SMALL))
def test_learns_on_any_family(family):
    """A few steps on one batch that is not square: finite, falling, and every parameter of the head has its part."""
    size = SIZES.get(family, [(64, 64), (96, 64)])[-1]
    task = detection.build(detection.Config(classes=3, queries=5, width=16, heads=2, hidden=24, decoder=2, encoder=1))
    model = task.assemble(small(family)).train()
    batch = Batch(torch.randn(2, 3, *size), objects(size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        terms = task.loss(model, batch)
        losses.append(sum(terms.values()))
        losses[-1].backward()
        optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    head = [
        n for n, p in model.named_parameters() if not n.startswith("backbone.") and (p.grad is None or not p.grad.any())
    ]
    assert head == []
    assert task.predict(model.eval(), batch.inputs).shape == (2, 5, 6)
    depth = depth_levels(model, model.backbone.blocks)
    assert {depth[n] for n in depth if not n.startswith("backbone.")} == {len(model.backbone.blocks) + 1}


@pytest.mark.parametrize("stride", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (4, 32))])
def test_the_way_of_vitdet(stride):
    """Windows and a pyramid of the last map: every parameter that learns has a gradient, at any size; it exports."""
    keys = {"queries": 5, "width": 16, "heads": 2, "hidden": 24, "decoder": 2, "neck": "simple", "stride": stride}
    task = detection.build(detection.Config(classes=3, **keys))
    backbone = vitrail.backbone("vit/tiny", width=32, depth=4, heads=4, patch=16, size=(96, 128), window=2)
    model = task.assemble(backbone).train()
    assert model.strides == {0: (8, 16, 32), 4: (4, 8, 16, 32), 32: (32,)}[stride]
    for size in ((96, 128), (70, 50)):
        model.zero_grad()
        sum(task.loss(model, Batch(torch.randn(2, 3, *size), objects(size))).values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    x = torch.randn(1, 3, 96, 128)
    got = torch.export.export(model.eval(), (x,)).module()(x)
    torch.testing.assert_close(got.boxes, model(x).boxes, rtol=1e-4, atol=1e-5)


def test_a_neck_of_a_hierarchical_backbone_is_refused():
    task = detection.build(detection.Config(classes=3, neck="simple"))
    with pytest.raises(UsageError, match="neck none"):
        task.assemble(small("resnet"))


@pytest.mark.parametrize("design", [DETR, OURS])
def test_sixteen_bits(design):
    task = detection.build(detection.Config(classes=3, **{**dataclasses.asdict(design), "stride": 8}))
    model, batch = task.assemble(small("resnet")), Batch(torch.randn(2, 3, 64, 96), objects((64, 96)))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.forward_all(batch.inputs, batch.targets.sizes)
        terms = task.loss(model, batch)
    assert found.logits.dtype == found.boxes.dtype == torch.float32
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
