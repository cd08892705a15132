"""Synthetic squares, discs and triangles on a noisy background: for segmentation and detection without files.

An image depends on its index, its split and the seed only, never on the number of images. One to four objects, each
visible by at least `MIN_VISIBLE` where others cover it; masks are exact, boxes tight around the visible part.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from vitrail.data.annotations.boxes import pack_boxes
from vitrail.data.dataset import ArrayReader, Boxes, Dataset, Split
from vitrail.errors import UsageError
from vitrail.validation import Count, Positive

OBJECTS = ("disc", "square", "triangle")
NAMES = {"shapes": "masks", "shapes-boxes": "boxes"}  # value of --data: default of `annotation`
MOST = 4  # objects in an image
TRIES = 20  # attempts to place an object
MIN_VISIBLE = 0.5  # minimal visible share of an object
RADIUS = (0.14, 0.27)  # of the circle around an object, as a share of the shorter side
MIN_CONTRAST = 150  # minimal difference of two colours, summed over channels
SMALLEST = 32  # pixels of a side


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "masks", "boxes"] = ""  # empty: masks for `shapes`, boxes for `shapes-boxes`
    count_train: Positive = 2000
    count_val: Count = 500
    count_test: Count = 500
    size: tuple[Positive, Positive] = (64, 64)  # height and width
    seed: Count = 0


def matches(path: str) -> bool:
    """The word "shapes" or "shapes-boxes"."""
    return path in NAMES


def build(config: Config) -> Dataset:
    """Images uint8 [N H W 3] in memory, with masks (background and three shapes) or boxes (three shapes)."""
    if min(config.size) < SMALLEST:
        raise UsageError(
            f"data.size is {config.size[0]} x {config.size[1]}", f"height and width are at least {SMALLEST} pixels"
        )
    kind = config.annotation or NAMES.get(PurePath(config.path).name, "masks")
    counts = {"train": config.count_train, "val": config.count_val, "test": config.count_test}
    splits = {}
    for number, (part, count) in enumerate(counts.items()):
        if not count:
            continue
        images = np.empty((count, *config.size, 3), np.uint8)
        masks = np.empty((count, *config.size), np.uint8)
        all_boxes = []
        for i in range(count):
            random = np.random.Generator(np.random.Philox(key=np.array([config.seed, (number << 48) + i], np.uint64)))
            images[i], masks[i], boxes = draw_image(random, *config.size)
            all_boxes.append(boxes)
        annotation = ArrayReader(masks) if kind == "masks" else pack_boxes(all_boxes)
        names = [f"{part}/{i}" for i in range(count)]
        splits[part] = Split(names, np.zeros(count, np.int64), ArrayReader(images), annotation)
    note = f"synthetic images, generated with seed {config.seed}"
    if kind == "masks":
        return Dataset("shapes", ("background", *OBJECTS), splits, 3, notes=(note,), kind="masks")
    return Dataset("shapes", OBJECTS, splits, 3, notes=(note,), kind="boxes")


def draw_image(random: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, Boxes]:
    """An image uint8 [H W 3], its mask uint8 [H W] (0 is the background, else 1 + index in `OBJECTS`), and boxes."""
    background = random.integers(0, 256, 3)
    image = (background + brightness_ramp(random, height, width)[..., None]).astype(np.float32)
    owner = np.full((height, width), -1)  # index of the visible object of a pixel
    areas: list[int] = []
    kinds: list[int] = []
    for _ in range(int(random.integers(1, MOST + 1))):
        kind = int(random.integers(len(OBJECTS)))
        colour = contrasting_color(random, background)
        for _ in range(TRIES):
            inside = draw_shape(random, OBJECTS[kind], height, width)
            visible = np.bincount(owner[(owner >= 0) & ~inside], minlength=len(areas))
            if (visible >= MIN_VISIBLE * np.array(areas)).all():
                owner[inside] = len(areas)
                image[inside] = colour
                areas.append(int(inside.sum()))
                kinds.append(kind)
                break
    image = np.clip(image + 12 * random.standard_normal(image.shape, np.float32), 0, 255).astype(np.uint8)
    mask = np.array([0, *(k + 1 for k in kinds)], np.uint8)[owner + 1]
    boxes = np.array([tight_box(owner == i) for i in range(len(kinds))], np.float32)
    return image, mask, Boxes(boxes, np.array(kinds, np.int64), np.zeros(len(kinds), bool))


def brightness_ramp(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A brightness gradient of the background, [H W], at most 30 either way."""
    down, across = random.uniform(-15, 15, 2)
    return np.linspace(-down, down, height)[:, None] + np.linspace(-across, across, width)


def contrasting_color(random: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A random colour that contrasts with the background."""
    while True:
        colour = random.integers(0, 256, 3)
        if np.abs(colour - background).sum() >= MIN_CONTRAST:
            return colour


def draw_shape(random: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """bool [H W]: pixels whose centres lie in an object at a random position; with random rotation."""
    radius = random.uniform(*RADIUS) * min(height, width)
    y, x = (random.uniform(radius, side - radius) for side in (height, width))
    rows, columns = np.arange(height)[:, None] + 0.5 - y, np.arange(width) + 0.5 - x
    turn = random.uniform(0, 2 * np.pi)
    if kind == "disc":
        return rows**2 + columns**2 <= radius**2
    corners = {"square": 4, "triangle": 3}[kind]
    reach = radius * np.cos(np.pi / corners)  # from the centre to each side
    inside = np.ones((height, width), bool)
    for angle in turn + 2 * np.pi * np.arange(corners) / corners:
        inside &= rows * np.sin(angle) + columns * np.cos(angle) <= reach
    return inside


def tight_box(inside: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of the True pixels: left, top, right, bottom (exclusive)."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
