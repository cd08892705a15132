"""Small data sets with masks and boxes, written by the tests of their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.errors import DataError

SIZE = (20, 30)  # height and width of the images


def make_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Noise, lossless whatever the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path, "PNG")
    return path


def mask(path: Path, values: np.ndarray, palette: bool = False) -> Path:
    """Grey, or with a palette that looks like nothing of the sort, or RGB where `values` is [H W 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([c for i in range(256) for c in (255 - i, (i * 7) % 256, 30)])
    image.save(path, "PNG")
    return path


def halves(left: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of two values."""
    values = np.full(size, left, np.uint8)
    values[:, size[1] // 2 :] = right
    return values


def coco(root: Path, parts=("train", "val"), change=lambda whole: None) -> Path:
    """Four images a part; the object in image i begins at (i, 2) and is 8 x 6, of category 3 or 7."""
    for start, part in enumerate(parts):
        images, objects = [], []
        for i in range(4):
            make_image(root / f"{part}2017" / f"{i}.jpg", 10 * start + i)
            images.append({"id": 100 + i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]})
            square = [i, 2, i + 8, 2, i + 8, 8, i, 8]
            objects.append(
                {
                    "id": i,
                    "image_id": 100 + i,
                    "category_id": (3, 7)[i % 2],
                    "bbox": [i, 2, 8, 6],
                    "iscrowd": 0,
                    "segmentation": [square],
                }
            )
        whole = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }
        change(whole)
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(whole))
    return root


def xml(path: Path, objects: list[tuple], extra: str = "") -> Path:
    """objects: name, xmin, ymin, xmax, ymax."""
    body = "".join(
        f"<object><name>{n}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{extra}<annotation><filename>elsewhere.tif</filename>{body}</annotation>")
    return path


def problem(layout, path, **settings) -> str:
    """What is told of data that cannot be used."""
    with pytest.raises(DataError) as caught:
        layout.build(layout.Config(str(path), **settings))
    assert str(caught.value).count("\n") < 5
    return str(caught.value)


def boxes(split, name: str) -> list:
    """Boxes and labels of an image by the end of its name."""
    index = next(i for i, n in enumerate(split.names) if n.endswith(name))
    annotation = split.annotation(index)
    return [(*box, label) for box, label in zip(annotation.boxes.tolist(), annotation.labels.tolist(), strict=True)]


def annotation(split, name: str):
    """The truth of an image by the end of its name."""
    return split.annotation(next(i for i, n in enumerate(split.names) if n.endswith(name)))
