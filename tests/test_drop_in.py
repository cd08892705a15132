"""The drop-in test: one new file is a family, a layout of data, a study or a task, and works from the command line.

Each file of `drop_in/` is put into a copy of the package in which nothing else is touched. A process that has imported
torch, and nothing of vitrail, forks for every command and does there what `python -m vitrail` does.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail import catalog
from vitrail.cli.main import main

FILES = Path(__file__).parent / "drop_in"
SMALL = ["--batch-size", 8, "--workers", 0, "--precision", "fp32"]
SHORT = [*SMALL, "--steps", 2, "--train.eval-every", 0]
SERVER = """
import gc, json, os, runpy, sys
gc.disable()
import numpy, PIL.Image, pydantic, safetensors.torch, torch, torch._dynamo
torch.set_num_threads(1)
assert not any(name.partition(".")[0] == "vitrail" for name in sys.modules)
gc.freeze()
for request in map(json.loads, sys.stdin):
    child = os.fork()
    if child == 0:
        os.chdir(request["folder"])
        for number, name in ((0, os.devnull), (1, request["out"]), (2, request["out"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        gc.enable()
        sys.path.insert(0, request["package"])
        sys.argv = ["vitrail", *request["words"]]
        try:
            runpy.run_module("vitrail", run_name="__main__", alter_sys=True)
        except SystemExit as leave:
            sys.stdout.flush()
            os._exit(leave.code or 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def server():
    path = os.pathsep.join(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", SERVER], **streams) as process:
        yield process
        process.stdin.close()


class Copy:
    """A copy of the package with one more file in it, and a folder to work in."""

    def __init__(self, package: Path, folder: Path, server: subprocess.Popen):
        self.package, self.folder, self.out, self.server = package, folder / "work", folder / "output", server
        self.folder.mkdir()

    def start(self, *words: object) -> int:
        """A command in a process of its own; returns its number."""
        self.out.write_text("")
        paths = {"folder": str(self.folder), "package": str(self.package), "out": str(self.out)}
        self.server.stdin.write(json.dumps({**paths, "words": list(map(str, words))}) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it has printed."""
        return int(self.server.stdout.readline()), self.out.read_text()

    def vitrail(self, *words: object) -> str:
        self.start(*words)
        code, out = self.end()
        assert code == 0, out
        return out


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a copy of the package as it is."""
    return shutil.copytree(Path(vitrail.__file__).parent, tmp_path_factory.mktemp("package") / "vitrail").parent


@pytest.fixture
def drop(tmp_path, package, server):
    """Puts a file on a floor of the copy, and takes it away again."""
    dropped = []

    def put(floor: str, file: str) -> Copy:
        dropped.append(package / "vitrail" / floor / file)
        assert not dropped[0].exists()
        shutil.copy(FILES / file, dropped[0])
        return Copy(package, tmp_path, server)

    yield put
    dropped[0].unlink()


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_family(drop):
    copy = drop("models", "tinyconv.py")
    environment = {**os.environ, "PYTHONPATH": str(copy.package)}
    listed = subprocess.run(
        [sys.executable, "-m", "vitrail", "models"], env=environment, cwd=copy.folder, capture_output=True, text=True
    )
    assert {"tinyconv/nano", "tinyconv/micro", "vit/tiny"} <= {
        line.split()[0] for line in listed.stdout.splitlines() if line
    }
    described = copy.vitrail("models", "tinyconv")
    assert "1610.02357" in described
    assert "tinyconv/micro" in described
    assert "--model.depth" in copy.vitrail("models", "tinyconv/nano")
    words = ["train", "--data", "mini", "--data.fraction", 0.01, "--model", "tinyconv/nano", "--model.depth", 1]
    copy.vitrail(*words, *SHORT, "--out", "run")
    evaluated = json.loads(copy.vitrail("eval", "run", "--json"))
    assert evaluated["count"] == 2000
    assert 0 <= evaluated["top1"] <= 1


def test_a_layout_of_data(drop):
    copy = drop("datasets", "dots.py")
    random = np.random.default_rng(0)
    lines = [f"{name} {''.join(random.choice(['.', '#'], 64))}" for name in ("cross", "ring") * 16]
    (copy.folder / "some.dots").write_text("\n".join(lines))
    checked = copy.vitrail("check", "some.dots")
    assert "cross" in checked
    assert "vitrail train --data some.dots" in checked
    copy.vitrail("train", "--data", "some.dots", "--model", "vit/nano", "--model.depth", 1, *SHORT, "--out", "run")
    assert json.loads((copy.folder / "run/run.json").read_text())["data"]["layout"] == "dots"
    assert json.loads((copy.folder / "run/evaluation/val.json").read_text())["count"] == 8


def test_a_study(drop):
    copy = drop("studies", "dice.py")
    assert "How fast the mean of dice settles" in copy.vitrail("study")
    assert "--throws" in copy.vitrail("study", "dice", "--help")
    copy.vitrail("study", "dice", "--throws", 100, "--out", "found")
    found = json.loads((copy.folder / "found/results.json").read_text())
    assert found["config"] == {"throws": 100, "most": 64}
    assert found["spread"] == sorted(found["spread"], reverse=True)
    assert "| 64 |" in (copy.folder / "found/table.md").read_text()


@pytest.mark.slow
def test_a_task_without_labels(drop):
    """Trained, stopped and resumed to the bit, evaluated, reported and used."""
    copy = drop("tasks", "rotation.py")
    words = ["train", "--data", "mini", "--data.fraction", 0.01, "--task", "rotation", *SMALL,
             "--model", "vit/nano", "--model.stem", "patch", "--model.patch", 7, "--model.depth", 1,
             "--model.dropout", 0.1, "--steps", 6, "--train.eval-every", 3, "--runtime.save-every", 2]  # fmt: skip
    copy.vitrail(*words, "--out", "whole")
    kept = copy.folder / "parts/checkpoints"
    process = copy.start(*words, "--out", "parts")
    late = time.monotonic() + 60
    while not (kept.is_dir() and any(kept.glob("step-*/manifest.json"))):  # then come a step and an evaluation
        os.kill(process, 0)  # it is there
        assert time.monotonic() < late
        time.sleep(0.005)
    os.kill(process, signal.SIGTERM)
    code, out = copy.end()
    assert code == 143, out
    assert not (copy.folder / "parts/model.safetensors").exists()
    copy.vitrail("train", "--resume", "parts")
    whole, parts = copy.folder / "whole", copy.folder / "parts"
    assert digest(whole / "model.safetensors") == digest(parts / "model.safetensors")

    evaluated, before = (
        json.loads(copy.vitrail("eval", "parts", "--json")),
        (whole / "evaluation/test.json").read_text(),
    )
    assert {key: evaluated[key] for key in json.loads(before)} == json.loads(before)
    assert evaluated["per_class"]["count"] == [500] * 4

    page = Path(copy.vitrail("report", parts).strip()).read_text()
    assert "has changed" not in page  # the data, of which the task knows no classes
    for section in ("curves", "confusion", "classes", "calibration", "cost", "data"):
        assert f'id="{section}"' in page
    for section in ("mistakes", "samples", "inside"):  # they show images as they are, and not as they were turned
        assert f'id="{section}"' not in page

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)).save(copy.folder / "one.png")
    predicted = json.loads(copy.vitrail("predict", "parts", "one.png", "--json"))
    assert list(predicted["probabilities"]) == ["0", "90", "180", "270"]
    assert predicted["label"] in predicted["probabilities"]


TWO_BLOCKS = [
    "--model.depth",
    "2",
    "--model.context-start",
    "1",
]  # fewer blocks, since the dry run counts what they cost


def test_every_name_of_a_recipe_is_looked_up_once_and_the_data_opened_once(own_folder, monkeypatch):
    from vitrail.datasets import mini

    lookups, opened = Counter(), []
    find, build = catalog.find, mini.build
    monkeypatch.setattr(catalog, "find", lambda floor, name: (lookups.update([(floor, name)]), find(floor, name))[1])
    monkeypatch.setattr(mini, "build", lambda config: (opened.append(config), build(config))[1])
    assert main(["train", "--data", "mini", "--model", "jit/nano", *TWO_BLOCKS, "--dry-run", "--quiet"]) == 0
    assert lookups == {("models", "jit/nano"): 1, ("tasks", "diffusion"): 1, ("datasets", "mini"): 1}
    assert len(opened) == 1


def test_an_export_format(drop):
    copy = drop("export/formats", "arrays.py")
    words = ["train", "--data", "mini", "--data.fraction", 0.01, "--model", "vit/nano", "--model.depth", 1]
    copy.vitrail(*words, *SHORT, "--out", "run")
    shown = copy.vitrail("export", "run", "--format", "arrays")
    assert "the same as torch on 32 images" in shown
    assert json.loads((copy.folder / "run/export/arrays/proof.json").read_text())["passed"]
    assert "patch_embed" in str(np.load(copy.folder / "run/export/arrays/weights.npz").files)
