"""A new head on a frozen backbone starts as the linear probe of its features, and learns at defaults of its own."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
import tiny

import vitrail
from vitrail.analysis.probe import choose_l2, fit_probe
from vitrail.recipe import Choice, InitConfig, OptimConfig
from vitrail.training import loop
from vitrail.training.transfer.initial_weights import fit_head

FROZEN, RANDOM = OptimConfig(freeze="backbone"), InitConfig()


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "labels"])
def data(request, tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), multi=request.param)


def start(data, out, model=("vit/nano", tiny.MODEL), optim=FROZEN, init=RANDOM):
    recipe = tiny.recipe(data, train={"steps": 2})
    return tiny.begin(dataclasses.replace(recipe, model=Choice(model[0], dict(model[1])), optim=optim, init=init), out)


@pytest.mark.parametrize("model", [("vit/nano", tiny.MODEL), ("crossvit/tiny", {}), ("resnet/18", {"width": 8})])
def test_the_head_gives_what_the_probe_gives(model, data, tmp_path):
    session = start(data, tmp_path / "run", model)
    net, train = session.state.model.eval(), session.dataset.splits["train"]
    images = session.evaluation_preprocess.load(train, keys_of(train))[0]
    with torch.no_grad():
        inputs = session.preprocess.batch(images)
        features, logits = torch.cat(net.backbone(inputs).summaries, 1).double(), net(inputs)
    labels = torch.from_numpy(np.ascontiguousarray(train.labels))
    probe = fit_probe(features, labels, 3, choose_l2(features, labels, 3, session.recipe.train.seed).l2)
    wanted = probe.probabilities(features, session.bundle.task.multi_label).float()
    given = logits.sigmoid() if session.bundle.task.multi_label else logits.softmax(1)
    assert torch.allclose(given, wanted, atol=2e-3)
    assert any("linear probe" in note and "L2" in note and "1/N" in note for note in session.notes)


def keys_of(split):
    from vitrail.data.sampling import Keys

    return Keys(np.zeros(len(split), np.int64), np.arange(len(split)))


def test_its_defaults_are_those_of_a_probe_and_what_was_typed_is_kept(data, tmp_path):
    recipe = start(data, tmp_path / "open").recipe
    assert (recipe.init.fit_head, recipe.optim.weight_decay) == (True, 0.0)
    assert recipe.optim.lr == pytest.approx(1e-5 * (16 / 64) ** 0.5, rel=0.1)
    typed = start(data, tmp_path / "typed", optim=OptimConfig(freeze="backbone", lr=0.5))
    assert (typed.recipe.init.fit_head, typed.recipe.optim.lr) == (False, 0.5)
    assert float(typed.state.model.heads[0].bias.detach().abs().max()) == 0.0
    off = start(data, tmp_path / "off", init=InitConfig(fit_head=False))
    assert float(off.state.model.heads[0].bias.detach().abs().max()) == 0.0
    whole = start(data, tmp_path / "whole", optim=OptimConfig())
    assert whole.recipe.init.fit_head is False
    assert whole.recipe.optim.weight_decay == 0.05


def test_the_progress_of_its_features_is_shown_also_where_all_learns(data, tmp_path):
    session = start(data, tmp_path / "run", optim=OptimConfig(), init=InitConfig(fit_head=True))
    shown = []
    assert any("linear probe" in note for note in fit_head(session, lambda done, of: shown.append((done, of))))
    assert shown[-1] == (48, 48)


def test_a_head_that_is_kept_is_not_fitted_and_a_resumed_run_begins_alike(data, tmp_path):
    first = start(data, tmp_path / "first")
    begun = {name: t.clone() for name, t in first.state.model.state_dict().items()}
    again = tiny.again(tmp_path / "first")  # it ended before its first checkpoint
    assert all(torch.equal(t, begun[name]) for name, t in again.state.model.state_dict().items())
    for _ in loop.run_training(again):
        pass
    weights = InitConfig(str(tmp_path / "first"))
    kept = start(data, tmp_path / "kept", ("", {}), init=weights)
    old = vitrail.load(tmp_path / "first").model.heads[0].weight
    assert torch.equal(kept.state.model.heads[0].weight, old)
    assert not any(line.startswith("sha256") for line in kept.load_report.lines()), "a run has none"
    assert not any("linear probe" in note for note in kept.notes)
