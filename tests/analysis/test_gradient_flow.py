"""Norms and shares against the same numbers worked out from hooks and gradients of our own."""

import pytest
import torch
import torch.nn.functional as F
from test_models import SMALL, images, shaken, small

from vitrail.analysis.gradient_flow import measure_flow
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.tasks import classification
from vitrail.types import Batch

FAMILIES = sorted(set(SMALL) - {"dit", "jit"})


def rms(x):
    return pytest.approx(float(x.detach().square().mean().sqrt()), rel=1e-3)


def test_norms_are_those_of_the_graph():
    model, x = Classifier(shaken("vit"), 5).eval(), images("vit")
    labels = torch.tensor([1, 3])
    task = classification.build(classification.Config(classes=5))
    found = measure_flow(model, lambda m: task.loss(m, Batch(x, labels)))
    assert [f.name for f in found] == ["backbone.blocks.0", "backbone.blocks.1"]
    assert list(found[0].parts) == ["attn.q", "attn.k", "attn.v", "attn.proj", "mlp"]
    seen = {}
    block = model.backbone.blocks[0]
    for name, part in (("qkv", block.attn.qkv), ("attn", block.attn), ("mlp", block.mlp), ("block", block)):
        part.register_forward_hook(lambda m, args, out, name=name: (out.retain_grad(), seen.__setitem__(name, out))[0])
    task.loss(model, Batch(x, labels))["cross_entropy"].backward()
    q, k, v = seen["qkv"].chunk(3, dim=-1)
    for part, tensor in (("q", q), ("k", k), ("v", v)):
        assert found[0].parts[f"attn.{part}"].activation == rms(tensor)
    for part, grad in zip("qkv", seen["qkv"].grad.chunk(3, dim=-1), strict=True):
        assert found[0].parts[f"attn.{part}"].gradient == rms(grad)
    for part, name in (("attn.proj", "attn"), ("mlp", "mlp")):
        assert found[0].parts[part] == (rms(seen[name]), rms(seen[name].grad))
    assert found[0].out == (rms(seen["block"]), rms(seen["block"].grad))


def test_shares_of_branches():
    model, x = small("vit").eval(), images("vit")
    inside = {}
    block = model.blocks[1]
    block.register_forward_hook(lambda m, args, out: inside.update(x=args[0], out=out))
    block.attn.register_forward_hook(lambda m, args, out: inside.update(attn=out))
    block.mlp.register_forward_hook(lambda m, args, out: inside.update(mlp=out))
    found = measure_flow(model, lambda m: m(x).summaries[0].square().sum())[1].branches
    after = inside["x"] + inside["attn"]
    wanted = (inside["attn"].norm() / after.norm(), inside["mlp"].norm() / inside["out"].norm())
    assert found == pytest.approx([w.item() for w in wanted], rel=1e-3)


def test_branches_that_cannot_be_told_apart_are_told_as_one():
    model, x = small("vit", norm_at="post"), images("vit")
    inside = {}
    model.blocks[0].register_forward_hook(lambda m, args, out: inside.update(x=args[0], out=out))
    (share,) = measure_flow(model, lambda m: m(x).summaries[0].square().sum())[0].branches
    assert share == pytest.approx(((inside["out"] - inside["x"]).norm() / inside["out"].norm()).item(), rel=1e-3)


def test_skipped_paths_are_branches_too():
    x = images("vit")
    plain, skipping = (
        measure_flow(shaken("vit", drop_path_skip=skip), lambda m: m(x).summaries[0].square().sum())
        for skip in (False, True)
    )
    assert skipping[0].branches == pytest.approx(plain[0].branches, rel=1e-3)
    assert len(skipping[0].branches) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_flows_and_is_left_as_it_was(family):
    model, x = Classifier(shaken(family), 5).train(), images(family)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = measure_flow(model, lambda m: F.cross_entropy(m(x), torch.tensor([0, 1])))
    assert len(found) >= len(model.backbone.blocks)
    for one in found:
        assert one.parts
        assert one.out.activation > 0
        assert all(norms.activation > 0 for norms in one.parts.values())
        assert all(0 <= share < 10 for share in one.branches)
    assert sum(one.out.gradient > 0 for one in found) > len(found) / 2
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_loss_without_a_gradient_is_refused():
    model, x = shaken("vit"), images("vit")
    for loss in (lambda m: torch.tensor(1.0), lambda m: m(x).maps[0], lambda m: m(x).maps[0].sum().detach()):
        with pytest.raises(UsageError, match="has no gradient"):
            measure_flow(model, loss)
