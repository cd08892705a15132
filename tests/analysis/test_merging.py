"""Looking into models whose tokens merge: what is drawn is of patches, as each was part of its group."""

from dataclasses import replace

import pytest
import torch

from vitrail.analysis.attention import attention
from vitrail.analysis.cam import gradient_cam
from vitrail.analysis.cost import cost
from vitrail.analysis.distance import mean_distance
from vitrail.analysis.gradient_flow import measure_flow
from vitrail.analysis.rollout import relevance, rollout
from vitrail.analysis.tokens import compute_cka, compute_colors, compute_similarity
from vitrail.heads.linear import Classifier
from vitrail.models import siglip, vit

IMAGES = torch.randn(2, 1, 20, 24, generator=torch.Generator().manual_seed(0))
SMALL = vit.Config(width=32, depth=3, heads=2, patch=4, size=(20, 24), channels=1, registers=1, merge=5)


def classifier(build=vit.build, **keys):
    torch.manual_seed(0)
    model = Classifier(build(replace(SMALL, **keys)), 3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def passes(model):
    """Of every block: the arguments of its attention, and the layout after it."""
    found = []
    handles = [b.attn.register_forward_hook(lambda m, args, out: found.append([m.weights(*args), args[1]]))
               for b in model.backbone.blocks]  # fmt: skip
    handles += [b.register_forward_hook(lambda m, args, out: found[-1].append(out[1])) for b in model.backbone.blocks]
    model(IMAGES)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def test_weights_of_merged_tokens_are_those_of_their_patches():
    model = classifier()
    layers = attention(model, IMAGES)
    for one, (weights, layout, _) in zip(layers, passes(model), strict=True):
        assert one.queries.tokens == one.keys.tokens == 32
        assert one.keys.maps[0].grid == (5, 6)
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(2, 2, 32))
        if layout.merged is None:
            assert torch.equal(one.weights, weights)
            continue
        index = torch.cat([torch.arange(2).expand(2, -1), layout.merged.tokens + 2], dim=1)
        for b in range(2):
            times = torch.bincount(index[b])
            for query in (0, 1, 9, 31):
                wanted = weights[b, :, index[b, query]][:, index[b]] / times[index[b]]
                torch.testing.assert_close(one.weights[b, :, query], wanted)
    assert mean_distance(layers[2]).isfinite().all()
    assert layers[-1].attention_from((2, 3)).shape == (2, 2, 5, 6)


@pytest.mark.parametrize("keys", [{}, {"tokens": 0, "registers": 0}])
@torch.no_grad()
def test_rollout_goes_through_the_groups(keys):
    """By matrices of tokens: half of each stays, half is attention, and a merged token is the mean of its patches."""
    model = classifier(**keys)
    found = passes(model)
    lead = model.backbone.leading
    for b in range(2):
        flow = torch.eye(lead + 30)
        for weights, before, after in found:
            mean = weights[b].mean(0)
            flow = (0.5 * torch.eye(len(mean)) + 0.5 * mean) @ flow
            old = torch.arange(30) if before.merged is None else before.merged.tokens[b]
            joined = torch.zeros(lead + after.cells, len(mean))
            joined[:lead, :lead] = torch.eye(lead)
            for cell in range(30):
                joined[lead + after.merged.tokens[b, cell], lead + old[cell]] += 1 / torch.bincount(old)[old[cell]]
            sizes = torch.bincount(old).float()
            for row in range(lead, len(joined)):
                joined[row, lead:] *= sizes
            flow = joined / joined.sum(1, keepdim=True) @ flow
        row = flow[0] if lead else (flow * torch.bincount(found[-1][2].merged.tokens[b])[:, None]).sum(0) / 30
        torch.testing.assert_close(rollout(model, IMAGES)[b].flatten(), row[lead:], atol=1e-6, rtol=1e-4)


def test_other_maps_are_of_patches_too():
    model = classifier()
    for maps in (relevance(model, IMAGES), gradient_cam(model, IMAGES)):
        assert maps.shape == (2, 5, 6)
        assert maps.isfinite().all()
        assert maps.abs().sum() > 0
    pooled = classifier(siglip.build, tokens=0, registers=0, pool="attention")
    assert rollout(pooled, IMAGES).sum((1, 2)).allclose(torch.ones(2), atol=1e-4)
    assert relevance(pooled, IMAGES).shape == (2, 5, 6)


def test_equal_gradients_of_a_group_are_parts_of_its_own():
    """The gradient of a token is the sum of those of its patches: CAM of merged blocks weighs channels by the same."""
    from vitrail.analysis.block_outputs import visit_outputs

    model, outputs = classifier(), []
    visit_outputs(model, (IMAGES,), outputs.append)
    state = outputs[1]
    gradient = torch.randn_like(state.raw)
    torch.testing.assert_close(state.cells(gradient).sum((1, 2)), gradient[:, 2:].sum(1))
    torch.testing.assert_close(state.cells()[0, 1, 2], state.raw[0, 2 + state.layout.merged.tokens[0, 8]])


def test_blocks_are_inspected():
    model = classifier()
    assert compute_similarity(model, IMAGES).cosine.shape == (3,)
    assert [one.images.shape for one in compute_colors(model, IMAGES)] == [(2, 5, 6, 3)] * 3
    assert compute_cka(model, [IMAGES.repeat(2, 1, 1, 1)]).values.shape == (3, 3)
    flows = measure_flow(model, lambda net: net(IMAGES).square().sum())
    assert [len(one.branches) for one in flows] == [0, 0, 0], "no two outputs of a block are of the same tokens"
    assert all(one.out.gradient > 0 for one in flows)


def test_cost_is_that_of_the_tokens_that_are_left():
    less, more = (cost(classifier(merge=m)) for m in (5, 0))
    assert less.macs < 0.85 * more.macs
    assert less.attention_bytes == 2 * 4 * (32**2 + 27**2 + 22**2)
