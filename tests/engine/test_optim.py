"""Optimisers: LAMB against timm's, SGD against its formula, Muon where it belongs; each goes on from a checkpoint to
the bit."""

import pytest
import tiny
import torch
from quick import spread
from torch import nn

import vitrail
from vitrail.engine.lamb import Lamb
from vitrail.engine.muon import Muon, orthogonalise
from vitrail.engine.optim import (
    CombinedOptimizer,
    OptimizerSettings,
    build_optimizer,
    build_parameter_groups,
    hidden_matrices,
)
from vitrail.engine.state import State
from vitrail.errors import UsageError
from vitrail.training import loop

KINDS = ("adamw", "lamb", "sgd", "muon")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


def weights():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((8, 5), (5,), (3, 4, 2, 2))] + [
        nn.Parameter(torch.zeros(6, 2))
    ]


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lamb_is_timms(decay):
    timm = pytest.importorskip("timm.optim")
    mine, theirs = weights(), weights()
    ours = Lamb([{"params": mine, "weight_decay": decay}], (0.9, 0.99), 1e-6)
    other = timm.Lamb(theirs, lr=1.0, betas=(0.9, 0.99), eps=1e-6, weight_decay=decay, max_grad_norm=None)
    for step in range(5):
        torch.manual_seed(step)
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape) * 10.0 ** (step - 2)
            b.grad = a.grad.clone()
        for optim in (ours, other):
            optim.param_groups[0]["lr"] = 0.1 / (step + 1)
            optim.step()
        for a, b in zip(mine, theirs, strict=True):
            assert (a - b).abs().max() <= 1e-6 * max(1.0, b.abs().max().item())


def test_lamb_counts_the_steps_of_each_weight_on_its_own():
    """One that begins to learn at the third step makes the step that it would have made at the first."""
    early, late = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optim = Lamb([{"params": [early, late], "weight_decay": 0.1}])
    optim.param_groups[0]["lr"] = 0.01
    gradient = torch.linspace(-1, 1, 12).reshape(4, 3)
    early.grad = gradient
    optim.step()
    first = early.detach().clone()
    optim.step()
    assert torch.equal(late, torch.ones(4, 3))
    assert late not in optim.state
    late.grad = gradient
    optim.step()
    assert torch.equal(late, first)


def test_sgd_is_plain_momentum():
    """v <- 0.9 v + g, w <- w - rate v, with the decay as part of g."""
    w = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optim = build_optimizer(
        "sgd", [{"params": [w], "weight_decay": 0.1, "scale": 1.0}], [], OptimizerSettings(momentum=0.9)
    )
    optim.param_groups[0]["lr"] = 0.5
    expected, velocity = w.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 2.0]])):
        w.grad = gradient
        optim.step()
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected = expected - 0.5 * velocity
    torch.testing.assert_close(w.detach(), expected)


def made(kind, name="vit/nano"):
    torch.manual_seed(0)
    model = vitrail.create(name, classes=3)
    blocks = list(model.backbone.blocks)
    groups, matrices = build_parameter_groups(model, blocks, 0.05, 0.9), hidden_matrices(model.backbone, blocks)
    return model, build_optimizer(kind, groups, matrices, OptimizerSettings())


def test_muon_takes_the_matrices_between_features_and_nothing_else():
    """Neither what reads the image, nor the head, nor what is no matrix."""
    model, optim = made("muon")
    assert isinstance(optim, CombinedOptimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    taken, rest = ({names[id(p)] for g in part.param_groups for p in g["params"]} for part in optim.parts)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    stem = {f"backbone.patch_embed.{layer}.weight" for layer in ("convs.3", "convs.6", "convs.9", "proj")}
    assert taken == stem | {f"backbone.blocks.{i}.{layer}.weight" for i in range(3) for layer in layers}
    assert taken | rest == set(names.values())
    assert not taken & rest
    assert (
        len({id(g) for g in optim.param_groups})
        == len(optim.param_groups)
        == sum(len(p.param_groups) for p in optim.parts)
    )


def test_muon_looks_like_one_optimiser():
    """What is set on its groups holds in its parts, and what a checkpoint keeps is all of it."""
    model, optim = made("muon")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in model.parameters()]
    for group in optim.param_groups:
        assert set(group) >= {"lr", "scale", "weight_decay"}
        group["lr"] = 0.0
    optim.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for group in optim.param_groups:
        group["lr"] = 0.01 * group["scale"]
    optim.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True) if a.numel())
    kept = State(model, optim).tensors()["optimizer"]
    assert {name.partition("|")[0] for name in kept} == {name for name, p in model.named_parameters()}
    assert {name.partition("|")[2] for name in kept} == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


@pytest.mark.parametrize("name", ["resnet/18", "pvt_v2/b0", "efficientvit/b0", "swin/tiny", "crossvit/tiny"])
def test_muon_takes_convolutions_but_those_that_read_the_image_and_those_of_single_channels(name):
    with torch.device("meta"):
        backbone = vitrail.create(name, classes=3).backbone
    convs = {id(m.weight): m for m in backbone.modules() if isinstance(m, nn.Conv2d)}
    taken = {id(p) for p in hidden_matrices(backbone, list(backbone.blocks))}
    left = [m for key, m in convs.items() if key not in taken]
    assert all(m.groups > 1 or m.in_channels == 3 for m in left)
    assert any(m.in_channels == 3 for m in left)
    assert not any(m.groups > 1 for key, m in convs.items() if key in taken)


@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (4, 3, 3, 3), (8, 2, 1, 1)])
def test_muons_step_is_torchs_for_a_matrix(shape):
    """torch has it for matrices only; a convolution is one with the taps among its inputs."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    ours = Muon([{"params": [mine], "weight_decay": 0.1}], 0.9)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    ours.param_groups[0]["lr"] = 0.02
    for gradient in gradients:
        mine.grad, theirs.grad = gradient, gradient.flatten(1)
        ours.step()
        other.step()
    moved = theirs.detach() - start.flatten(1)
    assert ((mine.detach() - start).flatten(1) - moved).norm() <= 0.03 * moved.norm()  # torch iterates in bf16


def test_orthogonalised_rows_are_nearly_orthonormal():
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(3, 8, 20)))
    assert 0.6 < singular.min() <= singular.max() < 1.3


def test_muon_where_it_cannot_be(data, tmp_path):
    with pytest.raises(UsageError, match="weights between features"):
        build_optimizer("muon", [], [], OptimizerSettings())
    with pytest.raises(UsageError, match="freeze backbone freezes"):
        tiny.begin(tiny.recipe(data, optim={"name": "muon", "freeze": "backbone"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", spread(KINDS, 2))
def test_a_broken_run_ends_in_the_same_bytes(kind, data, tmp_path):
    recipe = tiny.recipe(data, optim={"name": kind, "layer_decay": 0.9})
    tiny.finish(tiny.begin(recipe, tmp_path / "whole"))
    for event in loop.run_training(tiny.begin(recipe, tmp_path / "broken")):
        if event.kind == "train" and event.step == 8:
            break
    resumed = tiny.again(tmp_path / "broken")
    assert resumed.state.step == 6
    tiny.finish(resumed)
    for name in ("model.safetensors", "checkpoints/step-00000012/optimizer.safetensors"):
        assert tiny.digest(tmp_path / "whole" / name) == tiny.digest(tmp_path / "broken" / name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_few_images_by_heart(kind):
    model, optim = made(kind)
    torch.manual_seed(1)
    images, labels = torch.randn(6, 3, 28, 28), torch.arange(6) % 3
    losses = []
    for _ in range(12):
        optim.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        for group in optim.param_groups:
            group["lr"] = {"sgd": 0.05, "lamb": 0.01}.get(kind, 0.002) * group["scale"]
        optim.step()
    assert losses[-1] < 0.7 * losses[0]


def test_channels_last_changes_the_layout_and_nothing_else(data, tmp_path):
    """Weights agree within rounding, and moments from a checkpoint are laid out as the weights are."""
    quiet = {"dropout": 0.0, "drop_path": 0.0}
    whole, plain = (
        tiny.begin(tiny.recipe(data, model=quiet, runtime={"channels_last": on}), tmp_path / str(on))
        for on in (True, False)
    )
    conv = next(
        m.weight
        for m in whole.state.model.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.in_channels > 1
    )
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert not conv.is_contiguous()
    for running in (whole, plain):
        tiny.finish(running)
    for a, b in zip(whole.state.model.parameters(), plain.state.model.parameters(), strict=True):
        assert not a.numel() or (a - b).abs().max() <= 5e-3
    broken = tiny.begin(tiny.recipe(data, model=quiet, runtime={"channels_last": True}), tmp_path / "broken")
    for event in loop.run_training(broken):
        if event.kind == "saved":
            break
    resumed = tiny.again(tmp_path / "broken")
    kept = [
        (p, s["exp_avg" if "exp_avg" in s else "momentum_buffer"]) for p, s in resumed.state.optimizer.state.items()
    ]
    assert all(moment.stride() == p.stride() for p, moment in kept)
    tiny.finish(resumed)
    assert tiny.digest(tmp_path / "broken" / "model.safetensors") == tiny.digest(
        tmp_path / "True" / "model.safetensors"
    )
