"""Trees in aerial images: a detector trained on all images but one, against a constant guess and a blob finder on that
one.

    python benchmarks/trees.py --data data/trees --held-out OSBS_029 --steps 2000

`--data` is a folder of images with Pascal VOC boxes. The detector learns from tiles of the other images and looks at
the held-out one in windows; what it is compared with knows the same training boxes:

- constant: boxes of the mean training size on a grid, as close as training trees are;
- blobs: connected regions of green, dark pixels (Otsu's threshold of the excess green), of at least a quarter of the
  mean training area.

Printed: AP50, mAP and how many boxes each gives. The run stays in `--out`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from history import append
from scipy import ndimage

from vitrail.data.dataset import Boxes, Dataset
from vitrail.datasets import voc
from vitrail.metrics.detection import average_precision

COMMON = (
    "--task detection --data.one-class --data.split 1 0 --data.empty drop --train.eval-every 0 "
    "--augment.scale-jitter 0.8 1.25 --augment.color-jitter 0.3 --model resnet/18"
)
WORDS = {  # by head
    "detr": f"{COMMON} --batch-size 16 --augment.vflip --data.tile 128 --model.width 32 --task.queries 50 --lr 1e-3",
    "dense": f"{COMMON} --batch-size 8 --augment.vflip --augment.rotate90 --data.tile 384 --img-size 256 256 "
    "--model.width 16 --model.depths 1 1 1 1 --task.width 48 --task.convs 1 --optim.name adamw --lr 5e-3 "
    "--optim.ema-decay 0.998 --runtime.channels-last --precision bf16",
}


def otsu(values: np.ndarray) -> float:
    """The threshold that parts a histogram into the two classes with the least variance inside (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    mean = (counts * middle).cumsum()
    above = below[-1] - below
    between = (mean[-1] * below - mean * below[-1]) ** 2 / np.maximum(below * above, 1)
    return float(middle[between.argmax()])


def trained_on(data: Dataset) -> tuple[np.ndarray, float]:
    """The mean (width, height) of the training boxes, and how many pixels of image there are for each."""
    split, boxes, pixels = data.splits["train"], [], 0
    assert split.annotation is not None
    for i in range(len(split)):
        boxes.append(split.annotation(i).boxes)
        height, width = split.read(i).shape[:2]
        pixels += height * width
    every = np.concatenate(boxes)
    return (every[:, 2:] - every[:, :2]).mean(0), pixels / len(every)


def constant(pixels: np.ndarray, size: np.ndarray, each: float) -> np.ndarray:
    step = each**0.5
    ys, xs = (np.arange(step / 2, side, step) for side in pixels.shape[:2])
    centres = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return scored(np.concatenate([centres - size / 2, centres + size / 2], 1), np.full(len(centres), 0.5))


def blobs(pixels: np.ndarray, size: np.ndarray) -> np.ndarray:
    red, green, blue = ndimage.gaussian_filter(pixels.astype(float), (2, 2, 0)).transpose(2, 0, 1)
    excess = 2 * green - red - blue - pixels.mean(2) / 2  # trees are greener and darker than the ground
    regions, _ = ndimage.label(ndimage.binary_opening(excess > otsu(excess), iterations=2))
    found = ndimage.find_objects(regions)
    boxes = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in found], float).reshape(-1, 4)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes, area = boxes[area >= size.prod() / 4], area[area >= size.prod() / 4]
    return scored(boxes, 1 / (1 + np.abs(np.log(area / size.prod()))))


def scored(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.column_stack([boxes, scores, np.zeros(len(boxes))]).astype(np.float32)


def told(name: str, found: np.ndarray, annotation: Boxes) -> dict[str, float]:
    judged = average_precision([found], [annotation], 1)
    print(
        f"{name:<10} AP50 {judged['AP50']:.3f}  mAP {judged['mAP']:.3f}  {len(found):>4} boxes "
        f"for {len(annotation.labels)} trees",
        flush=True,
    )
    return {"AP50": judged["AP50"], "mAP": judged["mAP"], "boxes": len(found)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data/trees"))
    asked.add_argument("--held-out", required=True, help="the name of an image, without its suffix")
    asked.add_argument("--head", choices=list(WORDS), default="dense")
    asked.add_argument("--steps", type=int, default=2000)
    asked.add_argument("--out", type=Path, default=Path("runs/trees"))
    asked.add_argument("--only-baselines", action="store_true")
    given = asked.parse_args()
    data = voc.build(voc.Config(str(given.data), split=(1, 0), test=given.held_out, one_class=True))
    (size, each), split = trained_on(data), data.splits["test"]
    assert split.annotation is not None
    pixels, annotation = split.read(0), split.annotation(0)
    figures = {
        "constant": told("constant", constant(pixels, size, each), annotation),
        "blobs": told("blobs", blobs(pixels, size), annotation),
    }
    if given.only_baselines:
        append("trees", figures, {"held_out": given.held_out})
        return
    words = [
        "--data",
        str(given.data),
        "--data.test",
        given.held_out,
        *WORDS[given.head].split(),
        "--steps",
        str(given.steps),
        "--out",
        str(given.out),
    ]
    subprocess.run([sys.executable, "-m", "vitrail", "train", *words], check=True)
    judged = json.loads((given.out / "evaluation" / "test.json").read_text())
    rows = np.load(given.out / "evaluation" / "test.npz")["rows"].reshape(-1, 6)
    figures["detector"] = told("detector", rows[rows[:, 4] >= 0], annotation)
    print(f"mAP in the run's own judgement: {judged['mAP']:.3f}")
    append("trees", figures, {"held_out": given.held_out, "head": given.head, "steps": given.steps})


if __name__ == "__main__":
    main()
