"""What the usual commands import: nothing that takes as long as torch and is not needed."""

import subprocess
import sys

import numpy as np
import tiny
from PIL import Image

SLOW = (
    "torchvision",
    "torchmetrics",
    "scipy.stats",
    "pandas",
    "matplotlib",
    "transformers",
    "timm",
    "faster_coco_eval",
)
CODE = f"""
import sys
from vitrail.cli.main import main
run, image = sys.argv[1:]
assert main(["predict", run, image]) == 0
assert main(["eval", run]) == 0
assert not (found := [name for name in {SLOW} if name in sys.modules]), found
"""


def test_predicting_and_evaluating_classes_imports_nothing_slow(tmp_path):
    """torchvision and torchmetrics take as long to import as torch; an image of another size is resized without."""
    recipe = tiny.recipe(tiny.npz(tmp_path / "data"), model={"depth": 1, "width": 8})
    tiny.finish(tiny.begin(recipe, tmp_path / "run"))
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "a.png")
    subprocess.run([sys.executable, "-c", CODE, tmp_path / "run", tmp_path / "a.png"], check=True)
