"""Rows of `product.py`: reading images, surveying them, and whole trainings on them."""

import io
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from product import Place, Row, Side, Skip, command_time, processor_time

from vitrail.data.loader import Fetcher, evaluation_requests, load_batches
from vitrail.data.survey.images import survey_images
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.datasets import imagefolder

PHOTOGRAPHS = (  # of packages that the benchmarks need anyway
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOOP = Path(__file__).with_name("bare_loop.py")
# the layers and the optimiser of `bare_loop.py`
LAYERS = ("--model", "vit/tiny", "--model.width", 96, "--model.depth", 3, "--model.heads", 3, "--optim.name", "adamw")


def write_photographs(root: Path, count: int, size: tuple[int, int] = (500, 400)) -> None:
    """`count` JPEGs of `size` (width, height): parts of real photographs, of three classes, quality 75 to 95."""
    site, chance = Path(sysconfig.get_paths()["purelib"]), np.random.default_rng(0)
    missing = [name for name in PHOTOGRAPHS if not (site / name).is_file()]
    if missing:
        raise Skip(f"the photographs of scikit-learn and matplotlib are not installed: {', '.join(missing)}")
    photographs = [Image.open(site / name).convert("RGB") for name in PHOTOGRAPHS]
    for i in range(count):
        image = photographs[i % 3]
        share = chance.uniform(0.5, 1)
        width, height = (int(side * share) for side in image.size)
        left, top = (int(chance.integers(0, a - b + 1)) for a, b in zip(image.size, (width, height), strict=True))
        part = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        file = root / ("val" if i % 5 == 4 else "train") / f"kind{i % 3}" / f"{i:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        part.save(file, "JPEG", quality=int(chance.integers(75, 96)))


def decode_batches(place: Place) -> tuple[Side, Side]:
    """timm's loader and transform, and ours, without workers: the shorter side to 256, the middle 224, normalised."""
    from timm.data import create_dataset, create_loader

    write_photographs(place.folder, 120)
    theirs = create_loader(create_dataset("folder", str(place.folder / "train")), (3, 224, 224), 32, num_workers=0,
                           interpolation="bilinear", crop_pct=0.875, mean=MEAN, std=STD, pin_memory=False,
                           device=torch.device("cpu"), persistent_workers=False)  # fmt: skip
    split = imagefolder.build(imagefolder.Config(str(place.folder))).splits["train"]
    transform = Preprocess((224, 224), 3, MEAN, STD, "crop", 0.875)

    def ours() -> list[Any]:
        requests = evaluation_requests(split, np.arange(len(split)), 32)
        return [transform.batch(b.images, b.keys).shape for b in load_batches(Fetcher(split, transform), requests, 0)]

    return processor_time(lambda: [images.shape for images, _ in theirs]), processor_time(ours)


def survey(place: Place) -> tuple[Side, Side]:
    write_photographs(place.folder, 120)
    dataset = imagefolder.build(imagefolder.Config(str(place.folder)))
    contents = [file.read_bytes() for file in sorted(place.folder.rglob("*.jpg"))]

    def decode_all() -> None:
        for content in contents:
            np.asarray(Image.open(io.BytesIO(content)))

    return processor_time(lambda: survey_images(dataset, threads=1)), processor_time(decode_all)


def train_commands(
    place: Place, images: Path, loop: tuple[object, ...], words: tuple[object, ...]
) -> tuple[Side, Side]:
    out = place.folder / "run"
    train = command_time("-m", "vitrail", "train", "--data", images, *LAYERS, *words, "--workers", 0, "--out", out,
                         "--device", "cpu", "--seed", 0)  # fmt: skip

    def ours() -> float:
        shutil.rmtree(out, ignore_errors=True)
        return train()

    return ours, command_time(LOOP, images, *loop)


def train_photographs(place: Place) -> tuple[Side, Side]:
    images = place.folder / "images"
    write_photographs(images, 500)
    return train_commands(place, images, ("--size", 96, "--patch", 16, "--batch", 16, "--epochs", 2, "--crop"),
                          ("--img-size", 96, "--model.patch", 16, "--batch-size", 16, "--epochs", 2))  # fmt: skip


def train_small(place: Place) -> tuple[Side, Side]:
    if place.data is None:
        raise Skip("it needs --data")
    if not (place.data / "cifar-10" / "train").is_dir():
        raise Skip(f"there is no {place.data / 'cifar-10' / 'train'}")
    images = place.folder / "images"
    for kind in sorted((place.data / "cifar-10" / "train").iterdir()):
        files = sorted(kind.iterdir())[:500]
        for part, own in (("train", files[:400]), ("val", files[400:])):
            (images / part / kind.name).mkdir(parents=True)
            for file in own:
                shutil.copy(file, images / part / kind.name)
    return train_commands(place, images, ("--size", 32, "--patch", 4, "--batch", 64, "--epochs", 5),
                          ("--model.patch", 4, "--batch-size", 64, "--epochs", 5))  # fmt: skip


ROWS = (
    Row("decode", "JPEG of 500x400 → normalised batch at 224, timm's loader / ours", ">= 1.5", decode_batches),
    Row("survey", "survey of such a JPEG / decoding it with Pillow", "<= 1.8", survey),
    Row(
        "train-photos", "`train` on 500 such JPEGs, 2 epochs / a bare loop of timm's ViT", "<= 1.25", train_photographs
    ),
    Row("train-small", "`train` on 5,000 PNGs of CIFAR-10 / a bare loop of timm's ViT", "<= 1.10", train_small),
)
