"""The valid files that `fuzz.py` damages, and how each kind is read."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from fuzz_damage import damage, damage_archive, damage_metadata
from PIL import Image

import vitrail
from vitrail.assembly.data import open_data
from vitrail.cli.main import main as vitrail_main
from vitrail.data.decode import decode
from vitrail.data.survey.annotations import survey_annotations
from vitrail.data.survey.images import survey_images
from vitrail.recipe import DataConfig, read

torch.set_num_threads(1)  # threads do not survive a fork

SMALL = {"classes": 2, "channels": 3, "size": (16, 16), "depth": 1, "width": 16, "heads": 2, "patch": 8}


class Reader(NamedTuple):
    """make(folder) writes valid files; read(folder, the damaged file) reads them; damages(file): whether it may be
    damaged."""

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path, Path], object]
    damages: Callable[[Path], bool] = Path.is_file
    damage: Callable[[bytes, random.Random], bytes] = damage


def pixels(seed: int = 0, size: tuple[int, int] = (16, 20), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)


def make_images(folder: Path) -> None:
    image = Image.fromarray(pixels())
    for kind in ("png", "jpg", "gif", "webp", "bmp", "tif", "ppm"):
        image.save(folder / f"image.{kind}")
    image.save(folder / "deflated.tif", compression="tiff_adobe_deflate")
    image.save(folder / "progressive.jpg", progressive=True)
    Image.fromarray(pixels().astype(np.uint16)[..., 0] * 200).save(folder / "deep.png")
    image.quantize(8).save(folder / "palette.png", transparency=3)
    image.save(folder / "moving.gif", save_all=True, append_images=[image, image])


def make_classes(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(pixels(i)).save(folder / name / f"{i}.png")


def make_table(folder: Path) -> None:
    make_classes(folder)
    rows = [f"{c}/{i}.png,{c},{'train' if i else 'val'}" for c in ("cat", "dog") for i in range(4)]
    (folder / "table.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")


def make_idx(folder: Path) -> None:
    for part in ("train", "t10k"):
        head = b"\x00\x00\x08\x03" + np.array([6, 12, 12], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels(1, (12, 12), 6).tobytes())
        head = b"\x00\x00\x08\x01" + np.array([6], ">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes([0, 1, 2, 0, 1, 2]))


def make_npz(folder: Path) -> None:
    arrays = {f"{part}_images": np.stack([pixels(i, (12, 12)) for i in range(6)]) for part in ("train", "val")}
    np.savez(folder / "data.npz", **arrays, **{f"{part}_labels": np.arange(6) % 3 for part in ("train", "val")})


def make_coco(folder: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 16, "width": 20} for i in range(6)]
    box = {"bbox": [3, 4, 10, 9], "area": 90, "iscrowd": 0, "segmentation": [[3, 4, 13, 4, 13, 13, 3, 13]]}
    objects = [{"id": i, "image_id": i, "category_id": 1 + i % 2, **box} for i in range(6)]
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    tree = {"images": images, "annotations": objects, "categories": kinds}
    (folder / "annotations.json").write_text(json.dumps(tree))
    for i in range(6):
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")


def make_voc(folder: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        Image.fromarray(pixels(i)).save(folder / f"JPEGImages/{i}.jpg")
        (folder / f"Annotations/{i}.xml").write_text(
            f"<annotation><filename>{i}.jpg</filename><size><width>20</width><height>16</height><depth>3</depth></size>"
            f"<object><name>{'cat' if i % 2 else 'dog'}</name><difficult>0</difficult><bndbox><xmin>3</xmin>"
            "<ymin>4</ymin><xmax>13</xmax><ymax>13</ymax></bndbox></object></annotation>"
        )
    for part, numbers in (("train", (0, 1, 2, 3)), ("val", (4, 5))):
        (folder / f"ImageSets/Main/{part}.txt").write_text("".join(f"{i}\n" for i in numbers))


def make_yolo(folder: Path) -> None:
    for part in ("train", "val"):
        for room in ("images", "labels"):
            (folder / room / part).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(pixels(i)).save(folder / f"images/{part}/{i}.png")
            (folder / f"labels/{part}/{i}.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.2 0.2 0.1 0.1\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


def make_safetensors(folder: Path) -> None:
    vitrail.save(vitrail.create("vit/nano", **SMALL), folder / "saved")


def make_foreign(folder: Path) -> None:
    """As other tools write it: without metadata of ours, so that no hash hides what comes behind it."""
    safetensors.torch.save_file(vitrail.create("vit/nano", **SMALL).state_dict(), folder / "weights.safetensors")


def make_pth(folder: Path) -> None:
    torch.save(vitrail.create("vit/nano", **SMALL).state_dict(), folder / "weights.pth")


def make_weights_npz(folder: Path) -> None:
    state = vitrail.create("vit/nano", **SMALL).state_dict()
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in state.items()})


def make_recipe(folder: Path) -> None:
    (folder / "recipe.toml").write_text(
        '[model]\nname = "vit/nano"\ndepth = 2\n[data]\npath = "photos"\n[train]\nsteps = 3\nbatch_size = 8\nseed = 1\n'
        '[input]\nsize = [16, 16]\nmean = [0.5, 0.5, 0.5]\n[augment]\nmixup = 0.2\n[optim]\nname = "adamw"\nlr = 1e-3\n'
    )


def make_run(folder: Path) -> None:
    make_classes(folder.parent / "photos")
    places = ["--data", str(folder.parent / "photos"), "--out", str(folder / "run")]
    model = ["--model", "vit/nano", "--model.depth", "1", "--img-size", "16"]
    code = vitrail_main(["train", *places, *model, "--steps", "2", "--quiet", "--device", "cpu", "--workers", "0"])
    assert code == 0


def read_data(folder: Path, _: Path) -> None:
    dataset, _choice = open_data(DataConfig("", {"path": str(folder)}))
    survey_images(dataset, threads=1)
    if dataset.is_annotated:
        survey_annotations(dataset, threads=1)


def read_one_file(folder: Path, damaged: Path) -> None:
    open_and_survey(DataConfig("", {"path": str(damaged)}))


def open_and_survey(choice: DataConfig) -> None:
    dataset, _ = open_data(choice)
    survey_images(dataset, threads=1)


def read_weights(folder: Path, damaged: Path) -> None:
    vitrail.load_weights(vitrail.create("vit/nano", **SMALL), damaged)


def read_saved(folder: Path, damaged: Path) -> None:
    vitrail.load(folder / "saved")


def read_run(folder: Path, damaged: Path) -> None:
    vitrail.load(folder / "run")


def is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors"


def is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in (".json", ".xml", ".txt", ".yaml", ".csv", ".toml", ".jsonl")


READERS = {
    reader.name: reader
    for reader in (
        Reader("decoder", make_images, lambda _, damaged: decode(damaged, 3)),
        Reader("safetensors", make_safetensors, read_saved),
        Reader("foreign", make_foreign, read_weights),
        Reader("metadata", make_safetensors, read_saved, is_weights, damage_metadata),
        Reader("pth", make_pth, read_weights, damage=damage_archive),
        Reader("npz-weights", make_weights_npz, read_weights, damage=damage_archive),
        Reader("recipe", make_recipe, lambda _, damaged: read(damaged)),
        Reader("run", make_run, read_run),
        Reader("coco", make_coco, read_data, is_text),
        Reader("voc", make_voc, read_data, is_text),
        Reader("yolo", make_yolo, read_data, is_text),
        Reader("idx", make_idx, read_data),
        Reader("npz", make_npz, read_one_file, damage=damage_archive),
        Reader("csv", make_table, lambda folder, _: read_one_file(folder, folder / "table.csv"), is_text),
    )
}
