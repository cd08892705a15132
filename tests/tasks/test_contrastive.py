"""Images with texts: the losses as published, exact for any number of micro-batches, and what is refused."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from vitrail.data.texts.tokenizer import train_tokenizer
from vitrail.engine.joint import JointOutputs, accumulate_joint
from vitrail.engine.processes.world import single_process
from vitrail.errors import UsageError
from vitrail.models import dit, vit
from vitrail.tasks import contrastive
from vitrail.tasks.contrastive import LARGEST_SCALE, Config
from vitrail.types import Batch

TINY = {"text": "nano", "text_width": 32, "text_depth": 1, "text_heads": 2, "vocabulary": 300, "context": 8}
WORDS = train_tokenizer(["a red car", "a blue cat"], 300, 8)
SIZES = {"tokenizer_size": WORDS.facts.size, "tokenizer_hash": WORDS.facts.sha256}


def build(**keys):
    torch.manual_seed(0)
    task = contrastive.build(Config(**{**TINY, **SIZES, **keys}))
    model = task.assemble(vit.build(vit.Config(width=32, depth=1, heads=2, patch=8, size=(16, 16))))
    model.tokenizer.fill(WORDS)
    return task, model


def batch(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 300, (count, 8), generator=draw)
    tokens[:, -1] = 2
    return Batch(torch.randn(count, 3, 16, 16, generator=draw), tokens)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_losses_as_published(kind):
    task, model = build(loss=kind)
    whole = batch(6)
    with torch.no_grad():
        images, texts = model(whole.inputs), model.embed_tokens(whole.targets)
        (found,) = task.loss(model, whole).values()
        if kind == "sigmoid":  # SigLIP, algorithm 1
            logits = 10.0 * images @ texts.T - 10.0
            expected = -F.logsigmoid((2 * torch.eye(6) - 1) * logits).sum() / 6
        else:  # CLIP, figure 3
            logits = images @ texts.T / 0.07
            expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("sizes", [(8,), (4, 4), (3, 3, 2)])
def test_gradients_are_those_of_the_whole_batch(kind, sizes):
    task, model = build(loss=kind, outputs=16)
    whole = batch(8)
    torch.stack(list(task.loss(model, whole).values())).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    parts = [Batch(*(t[end - n : end] for t in whole)) for end, n in zip(ends, sizes, strict=True)]

    def compute(i, with_gradient):
        with torch.set_grad_enabled(with_gradient):
            return task.outputs(model, parts[i])

    terms = accumulate_joint(
        task, compute, sizes, single_process(torch.device("cpu")), lambda value, i: value.backward()
    )
    assert float(terms[kind]) == pytest.approx(float(task.loss(model, whole)[kind].detach()), abs=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(kind):
    task, model = build(loss=kind)
    with torch.no_grad():
        own = task.outputs(model, batch(6))
        parts = [
            task.joint_loss(JointOutputs(tuple(rows[s : s + 2] for rows in own.rows), own.shared), own.rows, s)[kind]
            for s in (0, 2, 4)
        ]
        assert float(sum(parts) / 3) == pytest.approx(float(task.loss(model, batch(6))[kind]), abs=1e-6)


def test_dropout_of_the_text_tower_is_the_same_in_both_passes():
    task, model = build(text_dropout=0.3, text_drop_path=0.3)
    whole = batch(8)
    parts = [Batch(*(t[s : s + 4] for t in whole)) for s in (0, 4)]
    seen = []

    def compute(i, with_gradient):
        torch.manual_seed(i)
        with torch.set_grad_enabled(with_gradient):
            found = task.outputs(model.train(), parts[i])
        seen.append((i, found.rows[1].detach()))
        return found

    accumulate_joint(task, compute, (4, 4), single_process(torch.device("cpu")), lambda value, i: value.backward())
    assert [i for i, _ in seen] == [0, 1, 0, 1]
    assert torch.equal(seen[0][1], seen[2][1])
    assert torch.equal(seen[1][1], seen[3][1])
    assert not torch.equal(model.eval().embed_tokens(parts[0].targets), seen[0][1])


def test_the_scale_of_softmax_is_bounded_and_that_of_sigmoid_free():
    for kind, bounded in (("softmax", True), ("sigmoid", False)):
        task, model = build(loss=kind)
        with torch.no_grad():
            model.log_scale.fill_(7.0)
        task.after_step(model, 1)
        assert (float(model.log_scale.detach()) == pytest.approx(LARGEST_SCALE)) == bounded


def test_what_is_refused():
    with pytest.raises(UsageError, match="unknown text tower 'nona'"):
        contrastive.build(Config(text="nona"))
    with pytest.raises(UsageError, match="softmax loss has no bias"):
        contrastive.build(Config(loss="softmax", bias=0.0))
    with pytest.raises(UsageError, match="a prompt is empty"):
        contrastive.build(Config(prompts=("",)))
    task = contrastive.build(Config())
    with pytest.raises(UsageError, match="no embedding of an image"):
        task.assemble(dit.build(dataclasses.replace(dit.VARIANTS["nano"], depth=1)))
    with pytest.raises(UsageError, match="not assembled"):
        task.open_tokenizer()
