"""The losses of a fixed run are those that were kept: to the bit with the same torch on the same kind of processor, and
nearly elsewhere. A change of the code that changes them must be meant:

    UPDATE_GOLDEN=1 pytest -n 0 tests/faults/test_golden_losses.py
"""

import json
import os
from pathlib import Path

import pytest
import tiny
import torch

from vitrail.engine.precision import cpu_capabilities
from vitrail.training import loop

FILE = Path(__file__).parents[1] / "golden" / "losses.json"
FIRST = 10  # steps that must agree, nearly, with those of any processor


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    torch.set_num_threads(1)
    made = tiny.recipe(tiny.npz(folder / "data"), train={"steps": 100, "eval_every": 0}, runtime={"save_every": 1000},
                       optim={"name": "adamw"})  # fmt: skip
    running = tiny.begin(made, folder / "run")
    return [event.values["loss"] for event in loop.run_training(running) if event.kind == "train"]


def machine():
    processor = cpu_capabilities().get("cpu_name", "a processor without a name")
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}, {processor}"


def test_losses_are_those_that_were_kept(losses):
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    if os.environ.get("UPDATE_GOLDEN"):
        kept[machine()] = [loss.hex() for loss in losses]
        FILE.write_text(json.dumps(kept, indent=0) + "\n", encoding="utf-8")
    assert len(losses) == 100
    if machine() in kept:
        assert [loss.hex() for loss in losses] == kept[machine()]
    for other in kept.values():
        assert losses[:FIRST] == pytest.approx([float.fromhex(text) for text in other[:FIRST]], rel=1e-3)
