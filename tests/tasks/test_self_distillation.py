"""DINO: its loss, head, centre and teacher as published; and runs that go on to the bit with them."""

import pytest
import tiny
import torch
import view_runs
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from view_runs import numbers

from vitrail.cli.main import main
from vitrail.contracts import Backbone
from vitrail.errors import CheckpointError, UsageError
from vitrail.evaluation import look
from vitrail.heads.projection import PrototypeHead
from vitrail.inference.predictor import load_predictor
from vitrail.models import vit
from vitrail.recipe import Choice
from vitrail.storage.tensors import unpack
from vitrail.tasks.self_distillation import Config, SelfDistillation, dino_loss, sinkhorn
from vitrail.types import Batch, Views

SMALL = {"prototypes": 8, "hidden": 16, "bottleneck": 8, "local_crops": 2, "local_size": 8}
VIT = vit.Config(width=16, depth=2, heads=2, patch=4, size=(16, 16))


def test_the_loss_is_that_of_lightly():
    """The number that `lightly.loss.DINOLoss` 1.6.0 gives in fp64 of the same logits and centre."""
    student, teacher, center = numbers(3, 5, 4, 6)[0], numbers(2, 4, 6), numbers(6) / 10
    targets = torch.softmax((teacher.transpose(0, 1) - center) / 0.04, dim=-1)
    found = dino_loss(student.transpose(0, 1) / 0.1, targets)
    assert found.item() == pytest.approx(11.916396337864615, abs=1e-6)


def test_the_loss_is_that_of_all_pairs_of_different_views():
    logits, targets = torch.randn(4, 5, 6), torch.softmax(torch.randn(4, 2, 6), dim=-1)
    terms = [
        -(targets[:, t] * logits[:, v].log_softmax(-1)).sum(-1).mean() for t in range(2) for v in range(5) if v != t
    ]
    torch.testing.assert_close(dino_loss(logits, targets), torch.stack(terms).mean())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(dino_loss(logits, targets), torch.stack(terms).mean())


def test_balanced_targets_are_those_of_lightly():
    """The numbers that `lightly.loss.swav_loss.sinkhorn` 1.6.0 gives in fp64, three rounds at a temperature of 0.04; in
    DINOv2's loss they are computed likewise."""
    found = sinkhorn(numbers(5, 4), 0.04, lambda sums: sums)
    assert found[1].tolist() == pytest.approx(
        [0.324995077490264, 0.515278051612116, 0.159726870842137, 5.5e-11], abs=1e-9
    )
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))


def test_balanced_targets_use_every_prototype_and_are_of_all_processes():
    cosines = torch.nn.functional.normalize(torch.randn(64, 8), dim=1)
    cosines[:, 0] = 1.0  # without balance it would be that of every image
    assert torch.softmax(cosines / 0.1, dim=1).sum(0)[0] > 60
    whole = sinkhorn(cosines, 0.1, lambda sums: sums)
    assert whole.dtype == torch.float32
    assert (whole.sum(0) - 8).abs().max() < 2
    sums: list[torch.Tensor] = []

    def other(own):
        """What the second of two processes adds, which has the same images."""
        sums.append(own)
        return 2 * own

    torch.testing.assert_close(sinkhorn(cosines, 0.1, other), whole)
    assert len(sums) == 3


@pytest.mark.parametrize("learned", [False, True])
def test_the_head_is_an_mlp_and_weight_norm(learned):
    head = PrototypeHead(12, 16, 8, 10, learned)
    last = weight_norm(nn.Linear(8, 10, bias=False))
    lengths = torch.linspace(0.5, 2, 10)[:, None] if learned else torch.ones(10, 1)
    last.parametrizations.weight.original0.data = lengths
    last.parametrizations.weight.original1.data = head.prototypes.weight.data
    if learned:
        head.lengths.data = lengths
    x = torch.randn(3, 12)
    wanted = last(nn.functional.normalize(head.mlp(x), dim=-1))
    torch.testing.assert_close(head(x), wanted)


def task(**keys):
    return SelfDistillation(Config(**{**SMALL, **keys}))


def teach(one, teacher, count=6):
    views = Views(torch.randn(count, 2, 3, 16, 16), torch.randn(count, 2, 3, 8, 8))
    return one.teach(teacher, Batch(views, None)), views


class Fixed(nn.Module):
    """A teacher whose logits are the first numbers of an image."""

    def forward(self, images):
        return images.flatten(1)[:, :8]


def test_the_centre_moves_towards_the_mean_of_all_micro_batches():
    one, before = task(center_momentum=0.9), torch.linspace(-1, 1, 8)
    one.center = before.clone()
    one.begin_step(0, 10)
    taught = [teach(one, Fixed()) for _ in range(2)]
    logits = torch.cat([views.global_crops.flatten(0, 1) for _, views in taught]).flatten(1)[:, :8]
    for batch, views in taught:
        own = views.global_crops.flatten(2)[:, :, :8]
        torch.testing.assert_close(batch.targets, torch.softmax((own - before) / 0.04, dim=-1))
    torch.testing.assert_close(one.center, before), "within a step it stays"
    one.end_step(lambda row: row)
    torch.testing.assert_close(one.center, 0.9 * before + 0.1 * logits.mean(0))


def test_a_step_that_is_computed_again_counts_once():
    one, other = task(), task()
    for each, times in ((one, 1), (other, 2)):
        for _ in range(times):
            torch.manual_seed(0)
            each.begin_step(0, 10)
            teach(each, Fixed())
        each.end_step(lambda row: row)
    assert torch.equal(one.center, other.center)


def test_the_centre_is_of_all_processes():
    one = task(center_momentum=0.0)
    one.begin_step(0, 10)
    teach(one, Fixed())
    mine = one.total / one.count
    one.end_step(lambda row: row + torch.cat([torch.full((8,), 24.0), torch.tensor([24.0])]))
    torch.testing.assert_close(one.center, (mine * 12 + 24) / 36)


def test_the_temperature_of_the_teacher_rises_and_its_decay_too():
    one = task(teacher_temperature=0.07, teacher_temperature_start=0.04, temperature_warmup=0.5)
    found = []
    for step in (0, 25, 50, 99):
        one.begin_step(step, 100)
        found.append(one.temperature)
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert [one.decay(0.9, step, 100) for step in (0, 50, 100)] == pytest.approx([0.9, 0.95, 1.0])


def test_prototypes_do_not_learn_in_the_first_steps():
    one = task(freeze_last_layer=0.1, local_crops=0)
    model = one.assemble(vit.build(VIT))
    for step, learns in ((0, False), (9, False), (10, True)):
        one.begin_step(step, 100)
        model.zero_grad()
        with torch.no_grad():
            batch, views = teach(one, model)
        one.loss(model, Batch(Views(views.global_crops, views.local_crops[:, :0]), batch.targets))[
            "self_distillation"
        ].backward()
        assert bool(model.head.prototypes.weight.grad.abs().sum() > 0) is learns
        assert model.head.mlp[0].weight.grad.abs().sum() > 0


def test_a_checkpoint_of_another_head_is_refused():
    with pytest.raises(CheckpointError, match="a centre of 5 prototypes, not of 8"):
        task().load_state({"center": torch.zeros(5)})
    with pytest.raises(CheckpointError, match="no centre"):
        task().load_state({})


def test_crops_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"global_scale is from 0\.9 to 0\.4"):
        task(global_scale=(0.9, 0.4))
    with pytest.raises(UsageError, match="local_size"):
        task(local_size=0)
    with pytest.raises(UsageError, match=r"Fussy does not take local crops of 8x8: too small"):
        task().assemble(Fussy())


class Fussy(Backbone):
    """A backbone of images of one size."""

    summary_widths, map_widths, strides = (4,), (), ()
    config = VIT

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, images):
        raise RuntimeError("too small")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), channels=3, size=20)


def recipe(data, model=(), centering="mean", **runtime):
    return view_runs.recipe(data, Choice("self_distillation", {**SMALL, "centering": centering}), model, **runtime)


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_a_run_goes_on_to_the_bit_with_its_teacher_and_its_centre(centering, data, tmp_path):
    parts = view_runs.whole_and_resumed(recipe(data, centering=centering, micro_batch=4), tmp_path)
    assert {"model", "ema", "task", "optimizer"} <= set(parts)
    assert parts["task"]["center"].abs().sum() > 0
    assert not all(torch.equal(parts["ema"][name], parts["model"][name]) for name in parts["ema"])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    running = tiny.begin(recipe(data), tmp_path_factory.mktemp("runs") / "run")
    tiny.finish(running)
    return running


def test_the_teacher_is_what_is_evaluated_and_kept(finished):
    kept, _ = unpack(finished.folder.weights)
    assert all(torch.equal(kept[name], t) for name, t in finished.state.ema.module.state_dict().items())
    assert finished.state.best_model is finished.state.ema.module


def test_its_backbone_is_a_start_for_other_tasks(finished, data, tmp_path, capsys):
    words = ["train", "--data", str(data), "--weights", str(finished.folder.path), "--steps", "1", "--batch-size", "8"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "classes"), "--init.fit-head", "false"]) == 0
    assert "left out" in (said := capsys.readouterr().out)
    assert "head.prototypes.weight" in said


def test_gradients_of_single_images_are_refused(finished):
    predictor = load_predictor(str(finished.folder.path))
    with pytest.raises(UsageError, match="several crops"):
        look.loss_on_batch(predictor, finished.dataset.splits["val"], 2)


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
@pytest.mark.parametrize("other", [{"micro_batch": 4}, {"micro_batch": 16, "grad_checkpoint": True}])
def test_accumulation_and_checkpointing_change_neither_gradient_nor_centre(other, centering, data, tmp_path):
    found = []
    for i, runtime in enumerate(({"micro_batch": 16}, other)):
        running = tiny.begin(recipe(data, view_runs.STILL, centering, **runtime), tmp_path / f"{i}")
        found.append((view_runs.first_gradient(running), running.bundle.task.center))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_first_teacher_is_the_model(data, tmp_path):
    running = tiny.begin(recipe(data), tmp_path / "run")
    view_runs.first_gradient(running)
    pairs = zip(running.state.ema.module.parameters(), running.state.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not running.state.ema.module.training
