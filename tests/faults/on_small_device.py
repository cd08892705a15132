"""Trains, resumes, evaluates and predicts on the device of `small_device`: `on_small_device.py FOLDER MODEL...`."""

import sys
from pathlib import Path

import small_device
import tiny
import torch

from vitrail.cli.main import main
from vitrail.engine.processes import world as worlds

SMALL = {"vit/nano": "--model.depth 1", "resnet/18": "--model.width 8",
         "swin/tiny": "--model.width 12 --model.depths 1 1 1 1"}  # fmt: skip
KEYS = """--img-size 32 --steps 4 --batch-size 4 --precision auto --workers 0 --train.eval-every 2 --optim.ema-decay 0.9
--augment.mixup 0.3 --augment.cutmix 0.3 --device mps --debug"""


def words(data: Path, out: Path, model: str) -> list[str]:
    small = SMALL.get(model, "").split()
    return ["train", "--data", str(data), "--model", model, *small, *KEYS.split(), "--out", str(out)]


def run(folder: Path, model: str) -> None:
    data, out = folder / "images", folder / model.replace("/", "-")
    assert main(words(data, out, model)) == 0, model
    assert (
        main(["train", "--resume", str(out), "--device", "mps", "--steps", "6", "--allow-change", "train.steps"]) == 0
    )
    assert main(["eval", str(out), "--device", "mps"]) == 0
    assert main(["predict", str(out), str(data / "ant" / "000.png"), "--device", "mps"]) == 0


if __name__ == "__main__":
    small_device.install()
    worlds.named_device = lambda name: torch.device("laptop", 0) if name == "mps" else torch.device(name)
    try:
        torch.zeros(2, device="laptop").double()
        raise SystemExit("float64 was not refused")
    except TypeError:
        pass
    place = Path(sys.argv[1])
    tiny.images(place / "images", each=8)
    for name in sys.argv[2:]:
        run(place, name)
