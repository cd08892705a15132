"""Folders that look like parts, masks or annotations are no classes; what is left out is told with its count, its kind
and its reason; links out of the folder are followed where that is asked for."""

import re
from pathlib import Path

import numpy as np
import pytest
from dense_data import coco, halves, make_image, mask, problem, xml
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.data.annotations.pairs import ANNOTATION, IMAGE, read_name
from vitrail.datasets import imagefolder, masks
from vitrail.errors import DataError
from vitrail.recipe import Recipe, override


def classes(root: Path, *names: str, count: int = 4) -> Path:
    """Images in folders of these names."""
    for k, name in enumerate(names):
        for i in range(count):
            make_image(root / name / f"{name.replace('/', '-')}-{i}.png", 100 * k + i)
    return root


def read(path: Path, **keys):
    """The data set as the command opens it."""
    return open_data(override(Recipe(), "data", {"path": str(path), **keys}).data)[0]


def parts(data) -> dict[str, int]:
    return {part: len(split) for part, split in data.splits.items()}


# parts


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("train_set", "dev_set", "test_set"),
        ("TRAIN", "eval", "tests"),
        ("train2017", "val2017", "test2017"),
        ("training-data", "valid", "hold-out"),
        ("trainval", "evaluation", "test1"),
    ],
)
def test_parts_above_and_below_the_classes(tmp_path, train, val, test):
    names = (train, val, test)
    for n, name in enumerate(names):
        classes(tmp_path / "above" / name, "cat", "dog", count=3 - n)
        classes(tmp_path / "below" / "cat", name, count=3 - n)
        classes(tmp_path / "below" / "dog", name, count=3 - n)
    for kind in ("above", "below"):
        data = read(tmp_path / kind)
        assert data.classes == ("cat", "dog")
        assert parts(data) == {"train": 6, "val": 4, "test": 2}


def test_test_images_in_a_class_folder_are_no_training_images(tmp_path):
    classes(tmp_path, "cat", "dog", "cat/test")
    data = read(tmp_path)
    assert parts(data) == {"train": 8, "test": 4}
    assert not [name for name in data.splits["train"].names if "/test/" in name]


def test_parts_without_class_folders_are_no_classes(tmp_path):
    classes(tmp_path / "flat", "train", "test")
    assert "train/ are named as parts, and hold images but no class folders" in problem(imagefolder, tmp_path / "flat")
    data = read(classes(tmp_path / "beside", "cat", "dog", "test"))
    assert data.classes == ("cat", "dog")
    assert any(
        "as test/ is named as a part and has no class folders (rename it if it is a class): 4 images" in note
        for note in data.notes
    )
    classes(tmp_path / "unlabelled" / "train", "cat", "dog")
    data = read(classes(tmp_path / "unlabelled", "test"))
    assert "left out, as they are beside the parts: 4 images, the first test/test-0.png" in data.notes
    assert read(classes(tmp_path / "words", "valid", "invalid")).classes == ("invalid", "valid")
    assert read(classes(tmp_path / "railway", "bus", "train")).classes == ("bus", "train")


def test_an_empty_part_is_as_none_and_told(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
    data = read(tmp_path)
    assert parts(data) == {"train": 6, "val": 2}
    assert "val/ holds no images: it is as if it were not there" in data.notes
    (tmp_path / "train" / "cow").mkdir()
    assert "left out, as they hold no images: 1 folder (cow/)" in read(tmp_path).notes


# masks


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("img_dir", "ann_dir"),
        ("img_dir/train", "ann_dir/train"),
        ("rgb", "label"),
        ("CameraRGB", "CameraSeg"),
        ("train", "trainannot"),
        ("train", "train_labels"),
        ("TrainImages", "TrainMasks"),
        ("imagesTr", "labelsTr"),
        ("Original", "Ground_Truth"),
        ("frames", "semantic"),
        ("x/images", "x/gts"),
        ("photos", "annots"),
        ("png_images", "png_masks"),
        ("satellite_images", "masks"),
        ("first", "second"),  # by what is in them
        ("scene1/rgb", "scene1/seg"),
    ],
)
def test_folders_of_images_and_masks_are_no_classes(tmp_path, images, annotations):
    for i in range(4):
        make_image(tmp_path / images / f"{i}.png", i)
        mask(tmp_path / annotations / f"{i}.png", halves(0, 1))
    data = read(tmp_path)
    assert (data.layout, data.kind) == ("masks", "masks")
    assert sum(parts(data).values()) == 4
    assert all(f"/{images.rpartition('/')[2]}/" in f"/{n}" for split in data.splits.values() for n in split.names)


def test_every_part_of_camvid(tmp_path):
    for part in ("train", "val", "test"):
        for i in range(3):
            make_image(tmp_path / part / f"{i}.png", i)
            mask(tmp_path / f"{part}annot" / f"{i}.png", halves(0, 1))
    assert parts(read(tmp_path)) == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("ending", ["mask_{}", "{}_mask", "{}-seg", "{}.label", "gt_{}"])
def test_names_of_masks(tmp_path, ending):
    for i in range(4):
        make_image(tmp_path / "images" / f"img_{i}.png", i)
        mask(tmp_path / "masks" / f"{ending.format(i)}.png", halves(0, 1))
    assert sum(parts(read(tmp_path)).values()) == 4


def test_class_folders_with_such_names_stay_classes(tmp_path):
    for names in (("mask", "no_mask"), ("with_mask", "without_mask"), ("label", "bottle"), ("raw", "cooked")):
        assert read(classes(tmp_path / names[0], *names)).classes == tuple(sorted(names))
    for name, shade in (("day", 200), ("night", 30)):  # files of the same names
        for i in range(4):
            (tmp_path / "shades" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, i, i)).save(tmp_path / "shades" / name / f"{i}.png")
    assert read(tmp_path / "shades").classes == ("day", "night")


def test_words_of_folder_names():
    for name, wanted in {
        "images": (IMAGE, "", ""), "JPEGImages": (IMAGE, "", ""), "leftImg8bit": (IMAGE, "", ""),
        "val_images": (IMAGE, "", "val"), "SegmentationClass": (ANNOTATION, "", ""), "gtFine": (ANNOTATION, "", ""),
        "testannot": (ANNOTATION, "", "test"), "lungs_masks": (ANNOTATION, "lungs", ""),
        "labelsTs": (ANNOTATION, "", "test"),
        "SegmentationObject": ("", "segmentationobject", ""), "validation": ("", "", "val"), "Cat": ("", "cat", ""),
    }.items():  # fmt: skip
        assert tuple(read_name(name)) == wanted, name


def test_images_with_annotations_of_another_kind_are_no_classes(tmp_path):
    classes(tmp_path, "images", "extra")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "images-0.json").write_text("{}")
    with pytest.raises(DataError, match="images/ and labels/ look like images and their annotations"):
        read(tmp_path)


# what fits two layouts, and what is left out


def test_masks_beside_class_folders_are_told(tmp_path):
    classes(tmp_path, "NORMAL", "PNEUMONIA")
    for i in range(3):
        make_image(tmp_path / "lungs" / f"{i}.png", i)
        mask(tmp_path / "lungs_masks" / f"{i}.png", halves(0, 255))
    data = read(tmp_path)
    assert data.layout == "masks"
    told = "fits masks and imagefolder, and was read as masks, which leaves out 8 images in folders that may be classes"
    assert told in data.notes[0]
    assert "(NORMAL, PNEUMONIA); --data.name imagefolder reads those" in data.notes[0]
    data = read(tmp_path, name="imagefolder")
    assert data.classes == ("NORMAL", "PNEUMONIA")
    assert any("lungs_masks/ holds the masks of lungs/" in note and "6 images" in note for note in data.notes)


def test_classes_with_images_and_masks_in_each(tmp_path):
    for name in ("COVID", "Normal"):
        for i in range(3):
            make_image(tmp_path / name / "images" / f"{i}.png", i)
            mask(tmp_path / name / "masks" / f"{i}.png", halves(0, 255))
    data = read(tmp_path)
    assert (data.layout, sum(parts(data).values())) == ("masks", 6)
    assert "the folder fits masks and imagefolder" in data.notes[0]
    data = read(tmp_path, name="imagefolder")
    assert (data.classes, sum(parts(data).values())) == (("COVID", "Normal"), 6)
    assert any("hold annotations, no classes: 6 images" in note for note in data.notes)


def test_two_annotations_of_the_same_images_are_told(tmp_path):
    for i in range(4):
        make_image(tmp_path / "images" / f"{i}.png", i)
        xml(tmp_path / "annotations" / f"{i}.xml", [("cat", 1, 1, 5, 5)])
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = read(tmp_path)
    assert data.layout == "yolo"
    told = "the folder fits yolo and voc, and was read as yolo; --data.name voc reads it as voc"
    assert told in data.notes
    assert read(tmp_path, name="voc").layout == "voc"


def write_all(root: Path) -> dict[str, Path]:
    """One data set of each layout, each with images that are left out."""
    classes(root / "imagefolder" / "train", "cat", "dog")
    classes(root / "imagefolder", "val/cat", "val/dog", "test", "more")
    make_image(root / "imagefolder" / "train" / "stray.png")
    for i in range(5):
        make_image(root / "masks" / "images" / f"{i}.png", i)
        mask(root / "masks" / "masks" / f"{i + 1}.png", halves(0, 1))
        make_image(root / "yolo" / "images" / "train" / f"{i}.png", i)
        make_image(root / "yolo" / "images" / "old" / f"{i}.png", i)
        make_image(root / "voc" / f"{i}.png", i)
        xml(root / "voc" / f"{i + 1}.xml", [("cat", 1, 1, 5, 5)])
    make_image(root / "masks" / "preview.png")
    (root / "yolo" / "labels" / "train").mkdir(parents=True)
    (root / "yolo" / "labels" / "train" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "yolo" / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    make_image(coco(root / "coco") / "train2017" / "new.png")
    return {name: root / name for name in ("imagefolder", "masks", "yolo", "voc", "coco")}


def test_no_image_is_left_out_without_its_count(tmp_path):
    for layout, root in write_all(tmp_path).items():
        data = read(root)
        assert data.layout == layout
        files = {p.relative_to(root).as_posix() for p in root.rglob("*.*g")}
        used = {name for split in data.splits.values() for name in split.names}
        used |= {entry.name for entry in data.entries}
        counted = [re.search(r"^left out, .*: (\d+) (image|mask)", note) for note in data.notes]
        assert sum(int(m[1]) for m in counted if m) == len(files - used) > 0, (layout, data.notes)


def test_a_folder_that_holds_one_folder_only(tmp_path):
    classes(tmp_path / "archive" / "pets" / "train", "cat", "dog")
    (tmp_path / "archive" / "README.md").write_text("")
    (tmp_path / "archive" / "__MACOSX").mkdir()
    data = read(tmp_path / "archive")
    assert (data.classes, parts(data)) == (("cat", "dog"), {"train": 6, "val": 2})
    inner = tmp_path / "archive" / "pets"
    assert f"{tmp_path / 'archive'} holds one folder only: what is in {inner} was read" in data.notes
    for i in range(4):
        make_image(tmp_path / "kit" / "VOC2007" / "JPEGImages" / f"{i}.jpg", i)
        xml(tmp_path / "kit" / "VOC2007" / "Annotations" / f"{i}.xml", [("cat", 1, 1, 5, 5)])
    assert read(tmp_path / "kit").layout == "voc"


# links


def test_links_out_of_the_folder_are_told_as_links_and_followed_where_asked(tmp_path):
    store = classes(tmp_path / "store", "cat", "dog", "cow")
    root = classes(tmp_path / "set", "cat", "dog")
    (root / "cow").symlink_to(store / "cow")
    (root / "cat" / "loop").symlink_to(root)
    (root / "dog" / "gone.png").symlink_to(root / "nothing.png")
    (root / "dog" / "inner.png").symlink_to(root / "cat" / "cat-0.png")
    data = read(root)
    assert (data.classes, sum(parts(data).values())) == (("cat", "dog"), 9)
    (note,) = (note for note in data.notes if "symbolic" in note)
    for told in (
        "3 symbolic links",
        "1 link out of the folder, the first cow",
        "--data.follow-links",
        "1 link to nothing",
    ):
        assert told in note
    data = read(root, follow_links=True)
    assert (data.classes, sum(parts(data).values())) == (("cat", "cow", "dog"), 13)
    farm = tmp_path / "farm"
    farm.mkdir()
    for name in ("cat", "dog"):
        (farm / name).symlink_to(store / name)
    assert "2 symbolic links were not followed: 2 links out of the folder" in problem(imagefolder, farm)
    assert sum(parts(read(farm, follow_links=True)).values()) == 8
    for name in ("images", "masks"):
        (tmp_path / "linked").mkdir(exist_ok=True)
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    for i in range(4):
        make_image(tmp_path / "real" / "images" / f"{i}.png", i)
        mask(tmp_path / "real" / "masks" / f"{i}.png", halves(0, 1))
    assert "--data.follow-links" in problem(masks, tmp_path / "linked")
    assert np.unique(read(tmp_path / "linked", follow_links=True).splits["train"].annotation(0)).tolist() == [0, 1]
