"""What the examination of a run finds: by logs made by hand, one for each finding, and on real runs."""

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from places import Process, everything, must, vitrail

from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.errors import RunError
from vitrail.recipe import Choice, DataConfig, InitConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig, read
from vitrail.report.doctor import learning_curve
from vitrail.report.doctor.examine import describe_state, examine_run
from vitrail.report.doctor.files import RunFiles
from vitrail.report.run_data import Evaluation, RunData

ROOT = Path(__file__).parents[2]
CLASSES = ["ant", "bee", "cow"]
STEPS = range(100, 1001, 100)
SOUND = RunFiles(checkpoints=(("step-00001000", ""),))
GOOD = [[9, 1, 0], [1, 9, 0], [0, 2, 8]]


@pytest.fixture
def folder(tmp_path):
    """Of a run that has written its weights."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").touch()
    return RunFolder(tmp_path / "run")


def dataset(counts=(300, 300, 300)):
    labels = np.repeat(np.arange(3), counts)
    split = Split([""] * len(labels), labels, ArrayReader(np.zeros((len(labels), 1, 1, 1), np.uint8)))
    return Dataset("npz", tuple(CLASSES), {"train": split}, 1)


def evaluated(confusion):
    return Evaluation(
        "test",
        {"confusion": confusion, "count": int(np.sum(confusion)), "top1": 0.9},
        np.zeros((0, 0)),
        np.zeros(0, int),
        [],
    )


def rows(kind, **columns):
    return [{"kind": kind, "step": step, **dict(zip(columns, found, strict=True))}
            for step, *found in zip(STEPS, *columns.values(), strict=True)]  # fmt: skip


def healthy(folder, **changes):
    """A run with nothing to say against it, but for what is changed."""
    fall = [1.0 * 0.8**i for i in range(10)]
    training = rows("train", loss=fall, grad_norm=[0.7] * 10, data_wait=[0.01] * 10, images_per_s=[500.0] * 10)
    evals = rows("eval", part=["val"] * 10, nll=[0.9 * x for x in fall], top1=[0.5, 0.7, *[0.9] * 8])
    recipe = Recipe(Choice("vit/nano"), DataConfig("npz"), Choice("classification"),
                    optim=OptimConfig(lr=3e-3, warmup_steps=50),
                    train=TrainConfig(steps=1000, batch_size=128))  # fmt: skip
    about = {"classes": CLASSES, "data": {"layout": "npz", "parts": {"train": 900, "val": 30, "test": 30}}}
    return replace(RunData(folder, recipe, about, training, evals, evaluated(GOOD), {}, dataset(), "", None), **changes)


def with_loss(known, loss, **more):
    return replace(known, training=rows("train", loss=loss, **more))


def with_optim(known, **keys):
    return replace(known, recipe=replace(known.recipe, optim=replace(known.recipe.optim, **keys)))


def only(known, lying=SOUND):
    """The one finding that there is."""
    found = examine_run(known, lying)
    assert len(found) == 1, [f.name for f in found]
    assert "" not in found[0]
    return found[0]


def test_a_healthy_run_is_left_in_peace(folder):
    assert examine_run(healthy(folder), SOUND) == []
    assert describe_state(healthy(folder), SOUND) == "finished"


def test_a_loss_that_never_fell(folder):
    found = only(with_loss(healthy(folder), [1.1, 1.09, 1.11] * 3 + [1.1]))
    assert (found.name, found.grave) == ("never_fell", True)
    assert "1.1 at step 100" in found.evidence
    assert f"{math.log(3):.3g}" in found.evidence
    assert "vitrail tune-lr" in found.advice


@pytest.mark.parametrize("fallen", [False, True])
def test_a_loss_of_prototypes_that_ended_at_chance(fallen, folder):
    """It may have fallen before: as long as all images had one prototype."""
    known = with_loss(healthy(folder), [5.4, *[0.5 if fallen else 5.5] * 4, *[5.52] * 5])
    distilled = replace(known.recipe, task=Choice("self_distillation", {"prototypes": 256, "local_crops": 0}))
    found = next(learning_curve.examine_curves(replace(known, recipe=distilled)))
    assert (found.name, found.grave) == ("at_chance", True)
    assert f"chance is {math.log(256):.3g}" in found.evidence
    assert "--task.centering sinkhorn" in found.advice


def test_weights_that_had_learned_before_need_not_fall(folder):
    assert examine_run(with_loss(healthy(folder), [0.1] * 10), SOUND) == []


def test_a_loss_that_fell_and_rose_again(folder):
    found = only(with_loss(healthy(folder), [1.0, 0.8, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8]))
    assert (found.name, found.grave) == ("rose_again", True)
    assert "--lr 0.001, --optim.warmup-steps 100" not in found.advice  # the warm-up is long enough
    assert "--lr 0.001" in found.advice


@pytest.mark.parametrize("grave", [True, False])
def test_over_fitting(folder, grave):
    nll = [0.9, 0.7, 0.6, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
    scores = [0.5, 0.6, 0.7, 0.8, 0.79, 0.78, 0.77, 0.76, 0.75, 0.74] if grave else [0.7] * 10
    known = healthy(folder)
    found = only(replace(known, evals=rows("eval", part=["val"] * 10, nll=nll, top1=scores)))
    assert (found.name, found.grave) == ("overfitting", grave)
    assert "was 0.5 at step 400" in found.evidence
    assert "--train.patience" in found.advice
    flat = with_loss(replace(known, evals=rows("eval", part=["val"] * 10, nll=nll)), [1.0, *[0.5] * 9])
    assert examine_run(flat, SOUND) == [], "where the training loss does not fall either, there is no overfitting"


def test_the_rank_of_features_is_no_accuracy(folder):
    """Not a fraction of images: it may fall in a good run, and rise in any."""
    known = healthy(folder)
    task = Choice("self_distillation", {"prototypes": 256, "local_crops": 0})
    known = with_loss(replace(known, recipe=replace(known.recipe, task=task)), [5.4 * 0.8**i for i in range(10)])
    for ranks in ([26.2, 25.9, 25.8, *[25.6] * 7], [float(20 + i) for i in range(10)]):
        evals = rows("eval", part=["val"] * 10, count=[2000] * 10, effective_rank=ranks)
        assert list(learning_curve.examine_curves(replace(known, evals=evals))) == []


def test_a_part_that_was_trained_on_shows_no_over_fitting(folder):
    nll = [0.5, 0.4, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    assert examine_run(healthy(folder, evals=rows("eval", part=["train"] * 10, nll=nll)), SOUND) == []


def test_a_gradient_that_grows(folder):
    found = only(
        with_loss(
            healthy(folder), [0.8**i for i in range(10)], grad_norm=[0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 0.9]
        )
    )
    assert (found.name, found.grave) == ("gradient_grows", True)
    assert "0.1 in the second quarter" in found.evidence


@pytest.mark.parametrize(("kind", "lr", "grave"), [("adamw", 3e-3, False), ("sgd", 3e-2, True)])
def test_a_gradient_that_is_always_clipped(folder, kind, lr, grave):
    known = with_loss(healthy(folder), [0.8**i for i in range(10)], grad_norm=[5.0] * 10)
    found = only(with_optim(known, name=kind, lr=lr))
    assert (found.name, found.grave) == ("always_clipped", grave)
    assert "over optim.clip_grad = 1 in 100%" in found.evidence
    assert "--optim.clip-grad 10" in found.advice
    assert examine_run(with_optim(known, clip_grad=0.0), SOUND) == []


@pytest.mark.parametrize(("lr", "word"), [(0.1, "high"), (1e-5, "low"), (0.0, "low")])
def test_a_rate_far_from_the_usual(folder, lr, word):
    found = only(with_optim(healthy(folder), lr=lr))
    assert found.name == "learning_rate"
    assert word in found.what
    assert "the default 0.003 for vit/nano" in found.evidence


def test_no_published_recipe_has_an_unusual_rate(folder):
    known = healthy(folder)
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        assert list(learning_curve.examine_lr(replace(known, recipe=read(path)))) == [], path.name
    begun = replace(with_optim(known, lr=5e-5).recipe, init=InitConfig(weights="x"))
    assert list(learning_curve.examine_lr(replace(known, recipe=begun))) == [], (
        "trained weights are finished at low rates"
    )


@pytest.mark.parametrize(
    ("machine", "piece"),
    [(RuntimeConfig(workers=0), "--workers N, one per CPU core"), (RuntimeConfig(workers=2), "more than 2")],
)
def test_waiting_for_images(folder, machine, piece):
    known = with_loss(
        healthy(folder), [0.8**i for i in range(10)], data_wait=[0.0, *[0.6] * 9], images_per_s=[40.0] * 10
    )
    found = only(replace(known, recipe=replace(known.recipe, runtime=machine)))
    assert found.name == "waiting"
    assert "60% of the step time" in found.evidence
    assert "40 images a second" in found.evidence
    assert piece in found.advice
    assert "--runtime.cache-images" in found.advice


@pytest.mark.parametrize(("steps", "batch", "grave"), [(50, 128, True), (150, 4, False)])
def test_too_few_steps(folder, steps, batch, grave):
    known = healthy(folder, training=[], evals=[])
    plan = replace(known.recipe.train, steps=steps, batch_size=batch)
    found = only(with_optim(replace(known, recipe=replace(known.recipe, train=plan)), lr=2e-3))
    assert (found.name, found.grave) == ("few_steps", grave)
    assert f"{steps} steps at batch size {batch} are {steps * batch:,} images" in found.evidence


def test_a_run_that_stopped_early_and_one_that_should_not_have(folder):
    known = healthy(folder)
    longer = replace(known, recipe=replace(known.recipe, train=replace(known.recipe.train, steps=2000, patience=5)))
    found = only(longer)
    assert found.name == "stopped_early"
    assert "at step 1,000 of 2,000" in found.evidence
    rising = [0.1 + 0.05 * i for i in range(10)]
    found = only(replace(known, evals=rows("eval", part=["val"] * 10, top1=rising)))
    assert found.name == "still_improving"
    assert "--steps 2000" in found.advice


def test_a_run_that_was_interrupted(folder):
    known = healthy(folder, evaluation=None)
    folder.weights.unlink()
    assert describe_state(known, SOUND) == "stopped"
    found = only(known, RunFiles(checkpoints=(("step-00000800", ""),)))
    assert (found.name, found.grave) == ("interrupted", True)
    assert "step-00000800" in found.evidence
    assert found.advice.startswith(f"vitrail train --resume {folder.path}")
    assert "checkpoints are gone" in only(known, RunFiles()).what
    assert "before its first" in only(replace(known, training=known.training[:1]), RunFiles()).what
    busy = RunFiles(worker="process 7 on here")
    assert examine_run(known, busy) == []
    assert describe_state(known, busy) == "running (process 7 on here)"
    found = only(known, RunFiles(checkpoints=(("step-00000800", "it was altered"),)))
    assert (found.name, found.grave) == ("checkpoint_damaged", True)


def test_finished_weights_of_a_run_that_was_given_more_steps_are_not_its_end(folder):
    known = healthy(folder)
    longer = replace(known, recipe=replace(known.recipe, train=replace(known.recipe.train, steps=2000)))
    assert only(longer).name == "interrupted"
    assert only(healthy(folder, evaluation=None)).name == "not_evaluated"


def test_damage(folder):
    known = healthy(folder)
    found = only(known, replace(SOUND, weights="model.safetensors was altered"))
    assert (found.name, found.grave) == ("weights_damaged", True)
    assert "writes them again from step-00001000" in found.advice
    found = only(known, RunFiles(checkpoints=(("step-00001000", "manifest.json is damaged"), ("step-00000800", ""))))
    assert (found.name, found.grave) == ("checkpoint_damaged", False)
    assert "step-00000800 is used instead" in found.advice
    patient = replace(known, recipe=replace(known.recipe, train=replace(known.recipe.train, patience=3)))
    found = only(patient, replace(SOUND, best=(("step-00000900.safetensors", "it was cut short"),)))
    assert found.name == "best_damaged"


def test_divergence_until_it_is_overcome(folder):
    facts = {"step": 1001, "what": "the loss (cross_entropy = nan) is not finite at step 1001",
             "finding": {"message": "first seen in x.1"},
             "trend": "sudden", "images": ["a.png", "b.png"], "suggestions": ["--optim.clip-grad 1"]}  # fmt: skip
    known = healthy(folder)
    folder.weights.unlink()
    found = only(known, replace(SOUND, divergences=(facts,)))
    assert (found.name, found.grave, found.advice) == ("diverged", True, "--optim.clip-grad 1")
    for piece in ("step 1001", "first seen in x.1", "sudden", "a.png, b.png"):
        assert piece in found.evidence
    past = replace(SOUND, divergences=({**facts, "step": 900},))
    assert only(known, past).name == "interrupted"


def test_data_that_is_gone_or_changed(folder):
    known = healthy(folder)
    assert only(replace(known, dataset=None, absent="there is no such folder")).name == "data_gone"
    found = only(known, replace(SOUND, changed=("1 removed: x.png",)))
    assert (found.name, found.evidence) == ("data_changed", "1 removed: x.png")
    assert only(known, replace(SOUND, unlisted="it is missing")).name == "data_unlisted"


def test_a_disk_that_is_nearly_full(folder):
    known = healthy(folder)
    assert only(known, replace(SOUND, free=2**20)).name == "disk"
    assert only(known, replace(SOUND, free=2**32, need=2**31)).name == "disk"


def test_judged_on_training_images(folder):
    found = only(
        healthy(folder, about={"classes": CLASSES, "data": {"layout": "imagefolder", "parts": {"train": 900}}})
    )
    assert (found.name, found.grave) == ("no_held_out_part", True)
    assert "--data.held-out 0.2" in found.advice


def test_classes_that_are_rare_or_never_said(folder):
    known = healthy(folder, dataset=dataset((600, 300, 20)))
    found = only(known)
    assert found.name == "imbalance"
    assert "ant has 600, cow 20" in found.evidence
    assert (
        examine_run(
            replace(known, recipe=replace(known.recipe, data=replace(known.recipe.data, sampler="balanced"))), SOUND
        )
        == []
    )
    found = only(healthy(folder, evaluation=evaluated([[9, 1, 0], [1, 9, 0], [5, 5, 0]])))
    assert (found.name, found.grave) == ("never_predicted", True)
    assert "cow (10 images)" in found.evidence
    several = Evaluation(
        "val", {"per_class": {"recall": [0.5, 0.0, 0.0], "count": [4, 4, 0]}}, np.zeros((0, 0)), np.zeros(0, int), []
    )
    about = {**known.about, "multi_label": True}
    found = only(healthy(folder, evaluation=several, about=about, evals=[]))
    assert found.evidence == "in the val part: bee (4 images)"


def test_no_better_than_a_guess(folder):
    found = only(healthy(folder, evaluation=evaluated([[50, 5, 5], [9, 1, 0], [9, 0, 1]])))
    assert (found.name, found.grave) == ("guessing", True)
    assert "always predicting ant would give 75.0%" in found.evidence


def test_what_is_grave_comes_first(folder):
    about = {"classes": CLASSES, "data": {"parts": {"train": 900}}}
    found = examine_run(
        with_optim(healthy(folder, about=about, evaluation=evaluated([[9, 1, 0], [1, 9, 0], [5, 5, 0]])), lr=0.5), SOUND
    )
    assert [f.grave for f in found] == sorted((f.grave for f in found), reverse=True)
    assert {f.name for f in found} == {"no_held_out_part", "never_predicted", "learning_rate"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run on images in folders, finished."""
    root = tmp_path_factory.mktemp("real")
    data = tiny.images(root / "data")
    tiny.finish(tiny.begin(tiny.recipe(data, train={"eval_every": 3}), root / "run"))
    return root


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run / "run", tmp_path / "run"))


def names(folder):
    code, out, err = vitrail("doctor", folder, "--json")
    assert (code, err) == (0, "")
    return {finding["name"]: finding for finding in json.loads(out)["findings"]}


def test_a_real_run_in_words_and_as_json(run):
    before = everything(run)
    said = must("doctor", run / "run")
    assert said.startswith(f"{run / 'run'}: finished, step 12 of 12\n")
    assert "wrong: the training is short\n  seen 12 steps at batch size 16 are 192 images, " in said
    found = names(run / "run")
    assert found["few_steps"]["grave"]
    assert not {"interrupted", "weights_damaged", "checkpoint_damaged", "data_changed", "data_gone", "diverged"} & set(
        found
    )
    assert everything(run) == before


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


def test_damage_is_found_and_the_advice_mends_it(copy):
    newest, older = sorted((copy / "checkpoints").iterdir(), reverse=True)
    flip(copy / "model.safetensors")
    flip(older / "model.safetensors")
    found = names(copy)
    assert "SHA-256" in found["weights_damaged"]["evidence"]
    assert newest.name in found["weights_damaged"]["advice"]
    assert older.name in found["checkpoint_damaged"]["evidence"]
    must("train", "--resume", copy, "--quiet")
    assert "weights_damaged" not in names(copy)


@pytest.mark.slow
def test_an_interrupted_run_and_data_that_changed(run, copy, tmp_path):
    (copy / "model.safetensors").unlink()
    shutil.rmtree(copy / "evaluation")
    assert "step-00000012" in names(copy)["interrupted"]["evidence"]
    other = Process([copy], tmp_path / "stdout.txt", tmp_path / "stderr.txt", command=tiny.hold)
    other.until("held")
    assert "interrupted" not in names(copy)
    assert f": running (process {other.pid} on " in must("doctor", copy)
    other.signal(signal.SIGKILL)
    other.end()
    assert "interrupted" in names(copy)
    extra = run / "data" / "ant" / "new.png"
    shutil.copy(run / "data" / "ant" / "000.png", extra)
    try:
        assert "1 added: ant/new.png" in names(copy)["data_changed"]["evidence"]
    finally:
        extra.unlink()
    (copy / "entries.txt.gz").unlink()
    assert "data_unlisted" in names(copy)


def test_a_run_that_diverged(run, tmp_path):
    made = tiny.recipe(run / "data", optim={"name": "sgd", "lr": 1e30, "clip_grad": 0.0, "warmup_steps": 0})
    with pytest.raises(RunError):
        tiny.finish(tiny.begin(made, tmp_path / "wild"))
    found = names(tmp_path / "wild")
    assert "is not finite at step" in found["diverged"]["evidence"]
    assert "--optim" in found["diverged"]["advice"]
    assert found["learning_rate"]["evidence"].startswith("optim.lr = 1e+30")


@pytest.mark.parametrize(("count", "alarm"), [(46, False), (20_000, True)])
def test_alarms_are_louder_than_chance(count, alarm, folder):
    """One image of 46 is no overfitting; the same share of 20,000 is."""
    nll = [0.9, 0.7, 0.6, 0.5, 0.5, 0.52, 0.54, 0.55, 0.55, 0.55]
    scores = [0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.78, 0.78, 0.78, 0.78]
    evals = rows("eval", part=["val"] * 10, nll=nll, top1=scores, count=[count] * 10)
    found = examine_run(healthy(folder, evals=evals), SOUND)
    assert [f.name for f in found] == (["overfitting"] if alarm else [])
    without = [{key: value for key, value in row.items() if key != "nll"} for row in evals]
    assert [f.name for f in examine_run(healthy(folder, evals=without), SOUND)] == (["overfitting"] if alarm else [])
    rising = rows("eval", part=["val"] * 10, top1=[0.5 + 0.01 * i for i in range(10)], count=[count] * 10)
    found = examine_run(healthy(folder, evals=rising), SOUND)
    assert [f.name for f in found] == (["still_improving"] if alarm else [])


def test_a_few_images_prove_no_guessing(folder):
    assert examine_run(healthy(folder, evaluation=evaluated([[1, 1, 0], [0, 1, 0], [1, 0, 1]])), SOUND) == []
    assert examine_run(healthy(folder, evaluation=evaluated([[3, 0, 0], [0, 3, 0], [2, 1, 0]])), SOUND) == []


def test_best_weights_that_are_damaged_name_the_way_out(folder):
    folder.best_about.write_text('{"step": 900, "file": "step-00000900.safetensors"}')
    found = only(healthy(folder), replace(SOUND, best=(("step-00000900.safetensors", "it was cut short"),)))
    assert (found.name, found.grave) == ("best_damaged", True)
    assert "--checkpoint last" in found.advice
    assert examine_run(healthy(folder), replace(SOUND, best=(("step-00000100.safetensors", "it was cut short"),))) == []
