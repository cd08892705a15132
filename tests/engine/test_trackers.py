"""Weights & Biases, MLflow and TensorBoard: only when asked, offline, with no question, and never the end of a run."""

import importlib.util
import os
import sys
from pathlib import Path

import places
import pytest
import torch

import vitrail
from vitrail.engine import trackers
from vitrail.engine.log import read_rows
from vitrail.errors import RunError, UsageError

WANDB = """
import os, sys
calls = []
fail = set()

def note(name, *values):
    calls.append((name, *values))
    if name in fail:
        raise RuntimeError(f"no {name} today")

class Run:
    def log(self, values, step):
        note("log", dict(values), step)
    def finish(self, exit_code=0):
        note("finish", exit_code)

def init(**keys):
    note("init", keys)
    assert not sys.stdin.isatty() and sys.stdin.read() == "", "it could ask"
    sys.meta_path.insert(0, "a hook that fails in a worker")
    return Run()
"""
MLFLOW = """
from types import SimpleNamespace
calls = []

def set_experiment(name):
    calls.append(("set_experiment", name))
def start_run(run_name=None, run_id=None):
    calls.append(("start_run", run_name, run_id))
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "number-1"))
def log_params(values):
    assert len(values) <= 100 and all(len(v) <= 500 for v in values.values())
    calls.append(("log_params", values))
def log_metrics(values, step):
    calls.append(("log_metrics", values, step))
def end_run(status="FINISHED"):
    calls.append(("end_run", status))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, the fakes, and a run without a tracker, while an import of one fails."""
    root = tmp_path_factory.mktemp("place")
    (root / "fakes").mkdir()
    (root / "fakes/wandb.py").write_text(WANDB)
    (root / "fakes/mlflow.py").write_text(MLFLOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("wandb", "mlflow", "tensorboard"):
            patch.setitem(sys.modules, name, None)
        places.images(root / "good")
        train("plain")
    return root


@pytest.fixture
def fakes(place, monkeypatch):
    """The fakes on the path, and no setting of the user."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place / "fakes")
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in [n for n in os.environ if n.startswith(("WANDB", "MLFLOW"))]:
        monkeypatch.delenv(name)
    for name, value in trackers.SETTINGS.items():
        monkeypatch.setenv(name, value)
    yield sys.modules
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def train(out, steps=2, optim=None, **runtime):
    return vitrail.train(
        "good", {"name": "vit/nano", "width": 32, "depth": 1, "heads": 2}, out=out, steps=steps, batch_size=8,
        precision="fp32", workers=0, runtime={"log_every": 1, **runtime}, optim=optim or {},
    )  # fmt: skip


def same_weights(out):
    return Path(out, "model.safetensors").read_bytes() == Path("plain/model.safetensors").read_bytes()


def test_each_row_of_the_log_reaches_them_and_the_result_is_the_same(fakes, capsys):
    run = train("both", wandb=True, mlflow=True)
    # the recipe is in the weights file without [runtime], so the file is the same
    assert same_weights("both")
    rows = [row for row in run.history if row["kind"] in ("train", "eval")]
    calls = fakes["wandb"].calls
    (init,) = [keys for name, *keys in calls if name == "init"]
    assert init[0]["mode"] == "offline"
    assert (init[0]["project"], init[0]["name"], init[0]["dir"]) == ("vitrail", "both", "both")
    assert init[0]["config"]["train"]["steps"] == 2
    logged = [(values, step) for name, *rest in calls if name == "log" for values, step in [rest]]
    assert [step for _, step in logged] == [row["step"] for row in rows]
    assert logged[0][0]["train/loss"] == pytest.approx(rows[0]["loss"])
    assert "eval/top1" in logged[-1][0]
    assert all(isinstance(v, int | float) for values, _ in logged for v in values.values())
    assert calls[-1] == ("finish", 0)
    assert not any(isinstance(finder, str) for finder in sys.meta_path)
    calls = fakes["mlflow"].calls
    assert calls[:2] == [("set_experiment", "vitrail"), ("start_run", "both", None)]
    assert any("optim.lr" in call[1] for call in calls if call[0] == "log_params")
    assert [call[2] for call in calls if call[0] == "log_metrics"] == [row["step"] for row in rows]
    assert calls[-1] == ("end_run", "FINISHED")
    assert f"wandb sync both/wandb/offline-run-*-{init[0]['id']}" in capsys.readouterr().out


def test_a_resumed_run_goes_on_in_theirs(fakes):
    first = trackers.RunFacts(Path("plain"), 0, {"optim": {"lr": 0.1}})
    runtime = vitrail.Run("plain").recipe.runtime
    runtime = type(runtime)(wandb=True, mlflow=True)
    for _ in range(2):
        trackers.Trackers(runtime, first).close()
    ids = [call[1]["id"] for call in fakes["wandb"].calls if call[0] == "init"]
    assert ids[0] == ids[1]
    starts = [call for call in fakes["mlflow"].calls if call[0] == "start_run"]
    assert starts == [("start_run", "plain", None), ("start_run", None, "number-1")]
    assert len([call for call in fakes["mlflow"].calls if call[0] == "log_params"]) == 1


def test_a_run_that_failed_has_not_finished_there(fakes):
    with pytest.raises(RunError, match="not finite"):
        train("failed", wandb=True, mlflow=True, optim={"name": "sgd", "lr": 1e30, "clip_grad": 0.0, "warmup_steps": 0})
    assert fakes["wandb"].calls[-1] == ("finish", 1)
    assert fakes["mlflow"].calls[-1] == ("end_run", "FAILED")


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_one_that_fails_never_ends_a_run(fakes, what, capsys):
    importlib.import_module("wandb").fail.add(what)
    run = train(f"fail-{what}", wandb=True)
    assert same_weights(run.path)
    assert len(read_rows(run.path / "log.jsonl")) == len(read_rows(Path("plain/log.jsonl")))
    said = "".join(capsys.readouterr())
    assert f"Weights & Biases is left out from here on (RuntimeError: no {what} today)" in said
    assert len([call for call in fakes["wandb"].calls if call[0] == what]) == 1, "it is not asked again"


def test_the_users_own_settings_hold(fakes, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    runtime = type(vitrail.Run("plain").recipe.runtime)(wandb=True, mlflow=True)
    trackers.Trackers(runtime, trackers.RunFacts(Path("plain"), 0, {})).close()
    init = fakes["wandb"].calls[0][1]
    assert (init["mode"], init["project"]) == ("online", "mine")
    assert "set_experiment" not in [call[0] for call in fakes["mlflow"].calls]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_one_that_is_not_installed_is_told_before_there_is_a_folder(place, monkeypatch, name):
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, name, None)
    before = places.everything(place)
    with pytest.raises(UsageError, match=rf"is not installed\npip install 'vitrail\[{name}\]'"):
        train("nothing", **{name: True})
    places.refused(place, f"train --data good --runtime.{name} --out nothing", 2, "is not installed")
    assert places.everything(place) == before


def test_tensorboard_beside_the_log(place, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(place)
    run = train("board", tensorboard=True)
    assert same_weights("board")
    assert list((run.path / "tensorboard").glob("events*"))
    assert torch.isfinite(run.predictor("good").probabilities).all()
