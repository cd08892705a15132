"""yolo11n from random weights on the trees of `dense_sets.py`: the same photographs, tiles, windows and metric.

    OMP_NUM_THREADS=1 python benchmarks/dense_peers.py --data data/trees --yolo-python PYTHON --epochs 40

`--yolo-python` is a Python that has ultralytics; it trains on tiles of 256 pixels, with the library's own augmentation
and, as these are images from above, flips upside down. It predicts the held-out photograph in our windows, and our
suppression merges them, at the overlap that our detector takes from the data. Printed: AP50 and the processor seconds
of its process, import and prediction included; the length is set in epochs, since no clock may end a run.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TILE, OVERLAP = 256, 0.3  # of duplicates; see docs/dense.md


def write_tiles(data: Path, held_out: str, to: Path) -> None:
    """The tiles of the training photographs in YOLO's layout, and the windows of the held-out one."""
    from vitrail.datasets import voc

    dataset = voc.build(
        voc.Config(str(data), split=(1, 0), test=held_out, one_class=True, tile=TILE, empty="drop"),
    )
    split = dataset.splits["train"]
    for folder in ("images/train", "labels/train", "windows"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    assert split.annotation is not None
    for i in range(len(split)):
        pixels, boxes = split.read(i), split.annotation(i).boxes
        height, width = pixels.shape[:2]
        middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate([middle, sides], 1) / [width, height, width, height]
        Image.fromarray(pixels).save(to / f"images/train/{i}.png")
        lines = ["0 " + " ".join(f"{value:.6f}" for value in row) for row in rows]
        (to / f"labels/train/{i}.txt").write_text("\n".join(lines))
    for i, window in enumerate(windows(dataset.splits["test"].read(0))):
        Image.fromarray(window.image.permute(1, 2, 0).numpy()).save(to / f"windows/{i:04}.png")
    (to / "data.yaml").write_text(f"path: {to.resolve()}\ntrain: images/train\nval: images/train\nnames: [tree]\n")


def windows(pixels: np.ndarray) -> list:
    """As our detector sees a photograph."""
    from vitrail.data.transforms.preprocess import Preprocess

    return Preprocess((TILE, TILE), 3, (0.5,) * 3, (0.2,) * 3, "tile").windows(pixels)


def train_yolo(folder: Path, epochs: int, seed: int) -> None:
    """In the other Python: the boxes of each window, [n 6] as ours, in boxes.json."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder / "config")}
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml")
    common = {"imgsz": TILE, "device": "cpu", "verbose": False, "workers": 0, "plots": False}
    model.train(data=str(folder / "data.yaml"), epochs=epochs, batch=16, seed=seed, pretrained=False, amp=False,
                val=False, flipud=0.5, project=str(folder), name="run", exist_ok=True, **common)  # fmt: skip
    trained = YOLO(str(folder / "run" / "weights" / "last.pt"))
    boxes = []
    for path in sorted((folder / "windows").iterdir()):
        [found] = trained.predict(str(path), conf=0.001, iou=0.6, imgsz=TILE, device="cpu", verbose=False)
        boxes.append(found.boxes.data.tolist())
    (folder / "boxes.json").write_text(json.dumps(boxes))


def score(data: Path, held_out: str, folder: Path) -> float:
    """AP50 on the held-out photograph."""
    import torch

    from vitrail.datasets import voc
    from vitrail.inference.windows import merge_detections
    from vitrail.metrics.detection import average_precision

    split = voc.build(voc.Config(str(data), split=(1, 0), test=held_out, one_class=True)).splits["test"]
    assert split.annotation is not None
    pixels = split.read(0)
    rows = [torch.tensor(boxes).reshape(-1, 6) for boxes in json.loads((folder / "boxes.json").read_text())]
    found = merge_detections(list(zip(windows(pixels), rows, strict=True)), pixels.shape[:2], OVERLAP)
    best = found[found[:, 4].argsort(descending=True, stable=True)[:500]]
    return float(average_precision([best], [split.annotation(0)], 1)["AP50"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/trees"))
    parser.add_argument("--held-out", default="2019_YELL_2_541000_4977000_image_crop")
    parser.add_argument("--runs", type=Path, default=Path("runs/dense-peers"))
    parser.add_argument("--yolo-python", default="")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", action="store_true", help="used by itself, in the other Python")
    given = parser.parse_args()
    folder = (given.runs / f"yolo11n-{given.epochs}-{given.seed}").resolve()
    if given.inside:
        train_yolo(folder, given.epochs, given.seed)
        return
    if not given.yolo_python:
        parser.error("--yolo-python: a Python that has ultralytics")
    from history import append
    from product import processor_time

    write_tiles(given.data, given.held_out, folder)
    words = [given.yolo_python, __file__, "--inside", "--runs", str(given.runs), "--epochs", str(given.epochs)]
    words += ["--seed", str(given.seed)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    used = processor_time(lambda: subprocess.run(words, check=True, env=env, stdout=sys.stderr))()
    figures = {"AP50": score(given.data, given.held_out, folder), "seconds": used}
    print(f"yolo11n, {given.epochs} epochs: AP50 {figures['AP50']:.3f}, {used / 120:.1f} minutes of two cores")
    append("dense_peers", figures, {"epochs": given.epochs, "seed": given.seed})


if __name__ == "__main__":
    main()
