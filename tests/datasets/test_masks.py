"""Images find their masks, values become classes as tables or the masks themselves say, and what cannot be right is
told."""

import pickle

import numpy as np
import pytest
from dense_data import SIZE, annotation, halves, make_image, mask, problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrail import catalog
from vitrail.data.annotations.masks import find_class_table, read_values
from vitrail.data.dataset import IGNORE
from vitrail.datasets import ade20k, cityscapes, masks, voc_masks
from vitrail.errors import BadImage, DataError


def build(path, **settings):
    return masks.build(masks.Config(str(path), **settings))


def pairs(root, count=5, values=lambda i: halves(0, 1 + i % 2), images="images", folder="masks", ending=""):
    for i in range(count):
        make_image(root / images / f"{i}.jpg", i)
        mask(root / folder / f"{i}{ending}.png", values(i))
    return root


@pytest.mark.parametrize(
    ("images", "folder", "ending"),
    [
        ("images", "masks", ""),
        ("images", "labels", "_mask"),
        ("imgs", "annotations", "_seg"),
        ("JPEGImages", "SegmentationClass", ""),
        ("Images/train", "Masks/train", ""),
        ("train/images", "train/mask", "_labelTrainIds"),
        ("images/train", "masks", ""),
        ("lungs/train/NORMAL", "lungs_masks/train/NORMAL", ""),
        ("train", "train_labels", "_L"),
    ],
)
def test_an_image_finds_its_mask(tmp_path, images, folder, ending):
    pairs(tmp_path, images=images, folder=folder, ending=ending)
    assert catalog.detect_layout(str(tmp_path)) == "masks"
    data = build(tmp_path)
    assert (data.kind, data.classes, data.channels) == ("masks", ("0", "1", "2"), 3)
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 4, "val": 1}
    for split in data.splits.values():
        for i, name in enumerate(split.names):
            assert (split.annotation(i) == halves(0, 1 + int(name[-5]) % 2)).all()
            assert split.read(i).shape == (*SIZE, 3)
        assert (pickle.loads(pickle.dumps(split)).annotation(0) == split.annotation(0)).all()  # noqa: S301 - what a worker process receives
    assert len(data.entries) == 10


def test_parts_in_folders(tmp_path):
    for part, count in (("training", 3), ("valid", 2), ("test", 1)):
        pairs(tmp_path, count, images=f"images/{part}", folder=f"masks/{part}")  # the same names in every part
    data = build(tmp_path)
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert data.splits["val"].names == ["images/valid/0.jpg", "images/valid/1.jpg"]


def test_a_folder_of_classes_stays_one(tmp_path):
    for name in ("face", "face_mask"):
        for i in range(3):
            Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(make_image(tmp_path / name / f"{i}.jpg"), "JPEG")
    assert catalog.detect_layout(str(tmp_path)) == "imagefolder"
    pairs(tmp_path / "other")
    assert catalog.detect_layout(str(tmp_path / "other")) == "masks"
    (tmp_path / "third" / "images").mkdir(parents=True)
    (tmp_path / "third" / "masks").mkdir()
    assert catalog.detect_layout(str(tmp_path / "third")) == "imagefolder"


def test_what_is_alone_is_left_out_and_told(tmp_path):
    pairs(tmp_path)
    make_image(tmp_path / "images" / "more.jpg")
    mask(tmp_path / "masks" / "other.png", halves(0, 1))
    notes = build(tmp_path).notes
    assert "left out, as they lack a mask: 1 image, the first images/more.jpg" in notes
    assert "left out, as they lack an image: 1 mask, the first masks/other.png" in notes
    mask(tmp_path / "masks" / "1.bmp", halves(0, 1))
    assert "images/1.jpg has 2 masks: masks/1.bmp and masks/1.png" in problem(masks, tmp_path)
    assert "has no image with a mask" in problem(masks, make_image(tmp_path / "empty" / "images" / "a.png").parents[1])


def test_zero_and_255_alone_are_two_classes(tmp_path):
    data = build(pairs(tmp_path, values=lambda i: halves(0, 255)))
    assert data.classes == ("background", "foreground")
    assert (data.splits["train"].annotation(0) == halves(0, 1)).all()
    assert "the values of the masks are 0 and 255: 255 is the second class" in data.notes
    (tmp_path / "classes.txt").write_text("ground\nlung\n")
    named = build(tmp_path)
    assert named.classes == ("ground", "lung")
    assert (named.splits["train"].annotation(0) == halves(0, 1)).all()
    assert named.entries != data.entries


def test_a_bit_is_a_class(tmp_path):
    for i in range(3):
        make_image(tmp_path / "images" / f"{i}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(halves(0, 1).astype(bool)).save(tmp_path / "masks" / f"{i}.png")
    assert (build(tmp_path).splits["train"].annotation(0) == halves(0, 1)).all()


def test_values_without_names(tmp_path):
    data = build(pairs(tmp_path, values=lambda i: halves(3, 255 if i else 40)))
    assert data.classes == ("3", "40")
    assert (
        annotation(data.splits["train" if "images/1.jpg" in data.splits["train"].names else "val"], "1.jpg")
        == halves(0, IGNORE)
    ).all()
    shifted = build(pairs(tmp_path / "s", values=lambda i: halves(0, 1 + i % 2)), zero="ignore")
    assert shifted.classes == ("1", "2")
    for split in shifted.splits.values():
        for i, name in enumerate(split.names):
            assert (split.annotation(i) == halves(IGNORE, int(name[-5]) % 2)).all()
    assert "have 1 class; segmentation takes two" in problem(
        masks, pairs(tmp_path / "t", values=lambda i: halves(4, 4))
    )


def test_palette_indices_are_not_turned_into_colours(tmp_path):
    for i in range(3):
        make_image(tmp_path / "images" / f"{i}.png")
        mask(tmp_path / "masks" / f"{i}.png", halves(1, 2), palette=True)
    (tmp_path / "classes.txt").write_text("0 ground\n1 red car\n2 tree\n255 void\n")
    data = build(tmp_path)
    assert data.classes == ("ground", "red car", "tree")
    assert (data.splits["train"].annotation(0) == halves(1, 2)).all()


TABLES = {
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\nsky,70,130,180\nvoid,0,0,0\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\nignore:0,0,0::\n",
    "label_colors.txt": "128 64 128\troad\n70 130 180\tsky\n0 0 0\tVoid\n",
    "classes.txt": "road 128 64 128\nsky 70 130 180\nvoid 0 0 0\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_colours_mean_what_the_table_says(tmp_path, table):
    colours = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 0]], np.uint8)
    values = halves(0, 1)
    values[0] = 2
    pairs(tmp_path, values=lambda i: colours[values])
    (tmp_path / table).write_text(TABLES[table])
    data = build(tmp_path)
    assert data.classes == ("road", "sky")
    assert (data.splits["train"].annotation(0) == np.where(values == 2, IGNORE, values)).all()
    mask(tmp_path / "masks" / "0.png", colours[values] + 1)
    mask(tmp_path / "masks" / "1.png", colours[values] + 1)
    split = build(tmp_path, split=(1, 0)).splits["train"]
    with pytest.raises(BadImage, match="has the colour 1,1,1, which is no class"):
        split.annotation(0)


def test_colours_without_a_table_are_classes_and_a_table_of_colours_may_name_indices(tmp_path):
    colours = np.array([[0, 0, 0], [0, 0, 200]], np.uint8)
    data = build(pairs(tmp_path, values=lambda i: colours[halves(0, 1)]))
    assert data.classes == ("#000000", "#0000c8")
    assert (data.splits["train"].annotation(0) == halves(0, 1)).all()
    pairs(tmp_path / "t", values=lambda i: halves(0, 1))
    (tmp_path / "t" / "classes.csv").write_text("name,r,g,b\nroad,128,64,128\nsky,70,130,180\n")
    data = build(tmp_path / "t")
    assert data.classes == ("road", "sky")
    assert (data.splits["train"].annotation(0) == halves(0, 1)).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,1,2\n", "line 1: 'a,1,2' is not a class"),
        ("a\n\nb,300,0,0\n", "line 3"),
        ("a,0\nb\n", "some lines have numbers"),
        ("a,0\na,1\n", "same name"),
        ("", "names no classes"),
        ("\n".join(f"c{i}" for i in range(300)), "names 300 classes"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, text, told):
    (pairs(tmp_path) / "classes.csv").write_text(text)
    assert told in problem(masks, tmp_path)


def test_a_mask_that_cannot_be_used(tmp_path):
    data = build(pairs(tmp_path), split=(1, 0))
    split = data.splits["train"]
    files = tmp_path / "masks"
    mask(files / "0.png", halves(0, 9))
    mask(files / "1.png", halves(0, 1, (5, 6)))
    (files / "2.png").write_bytes((files / "2.png").read_bytes()[:-20])
    (files / "3.png").unlink()
    Image.fromarray(halves(0, 1)).save(files / "4.png", "JPEG")
    for i, told in enumerate(
        ("the value 9, which is no class", "is 5 x 6", "truncated", "does not exist", "is a JPEG")
    ):
        with pytest.raises(BadImage, match=told):
            split.annotation(i)
    Image.fromarray(np.full(SIZE, 700, np.uint16)).save(files / "4.png")
    with pytest.raises(BadImage, match="has the value 700"):
        split.annotation(4)


# masks of two values that a JPEG or a smooth resize went over, and 255 in general


def soft(size=(32, 40)) -> np.ndarray:
    """A square of 255 on 0 with soft edges."""
    values = np.zeros((8 * size[0], 8 * size[1]), np.uint8)
    values[70:190, 75:200] = 255
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC))


def save_jpeg(root, count=4, mode="L"):
    """Images with masks of 0 and 255 as JPEGs."""
    for i in range(count):
        make_image(root / "images" / f"{i}.png", i, (32, 40))
        (root / "masks").mkdir(exist_ok=True)
        values = np.zeros((32, 40), np.uint8)
        values[8:24, 9:25] = 255
        Image.fromarray(values).convert(mode).save(root / "masks" / f"{i}.jpg", quality=70)
    return root, values == 255


@pytest.mark.parametrize("kind", ["smooth", "jpeg then png", "jpeg", "jpeg in colour"])
def test_two_values_with_soft_edges_are_two_classes(tmp_path, kind):
    if kind == "smooth":
        wanted = soft() >= 128
        for i in range(4):
            make_image(tmp_path / "images" / f"{i}.png", i, (32, 40))
            mask(tmp_path / "masks" / f"{i}.png", soft())
    else:
        _, wanted = save_jpeg(tmp_path, mode="RGB" if kind == "jpeg in colour" else "L")
    for file in (tmp_path / "masks").iterdir() if kind == "jpeg then png" else ():
        mask(file.with_suffix(".png"), np.asarray(Image.open(file)))
        file.unlink()
    data = build(tmp_path)
    assert data.classes == ("background", "foreground")
    assert any("with soft edges" in note and "--data.threshold" in note for note in data.notes)
    for i in range(len(data.splits["train"])):
        assert (data.splits["train"].annotation(i) == wanted).mean() > 0.99
    (tmp_path / "classes.txt").write_text("ground\nlung\n")
    assert build(tmp_path).classes == ("ground", "lung")
    assert (build(tmp_path, threshold=1).splits["train"].annotation(0) == 1).sum() > wanted.sum()


def columns(*values: int) -> np.ndarray:
    """A mask with a wide column of each value."""
    return np.repeat(np.array(values, np.uint8), 6)[None].repeat(20, 0)


IGNORED = "255 is ignored"
VALUES = {  # values, classes, and what is told
    "numbers and 255": (columns(0, 1, 2, 255), ("0", "1", "2"), IGNORED),
    "from one on": (columns(1, 2, 255), ("1", "2"), IGNORED),
    "grey levels": (columns(0, 128, 255), ("0", "128", "255"), "255 is a class"),
    "four grey levels": (columns(0, 85, 170, 255), ("0", "85", "170", "255"), "255 is a class"),
    "150 classes": (np.arange(151, dtype=np.uint8)[None].repeat(9, 0), tuple(map(str, range(151))), "classes are"),
    "150 classes and 255": (
        np.append(np.arange(150), [255] * 30).astype(np.uint8)[None].repeat(9, 0),
        tuple(map(str, range(150))),
        "255 is ignored, 16.7% of the pixels",
    ),
    "almost 255": (columns(0, 254, 255), ("background", "foreground"), "soft edges"),
    "a thin edge": (np.append(columns(*[0] * 9, *[255] * 9), [[127]] * 20, 1), ("background", "foreground"), "soft"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_255_is_ignored_or_a_class_and_told(tmp_path, kind):
    values, classes, told = VALUES[kind]
    for i in range(3):
        make_image(tmp_path / "images" / f"{i}.png", i, values.shape)
        mask(tmp_path / "masks" / f"{i}.png", values)
    data = build(tmp_path)
    assert data.classes == classes
    assert any(told in note for note in data.notes)
    assert (data.splits["train"].annotation(0) == IGNORE).any() == (IGNORED in told)


def test_a_table_may_name_255(tmp_path):
    pairs(tmp_path, values=lambda i: halves(1 + i % 2, 255))
    (tmp_path / "classes.txt").write_text("1,cat\n2,dog\n255,grass\n")
    data = build(tmp_path, split=(1, 0))
    assert data.classes == ("cat", "dog", "grass")
    assert (data.splits["train"].annotation(0) == halves(0, 2)).all()
    for name in ("Void", "border", "unlabeled"):
        (tmp_path / "classes.txt").write_text(f"1,cat\n2,dog\n255,{name}\n")
        assert build(tmp_path).classes == ("cat", "dog")


def test_masks_of_several_classes_as_jpeg_are_refused(tmp_path):
    for i in range(3):
        make_image(tmp_path / "images" / f"{i}.png", i)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(halves(3, 90)).save(tmp_path / "masks" / f"{i}.jpg")
    assert "is a JPEG, whose compression alters values" in problem(masks, tmp_path)


# published sets


def test_ade20k(tmp_path):
    for part in ("training", "validation"):
        pairs(tmp_path, 2, lambda i: halves(0, 150 - i), f"images/{part}", f"annotations/{part}")
    assert catalog.detect_layout(str(tmp_path)) == "ade20k"
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t0.1\t5\t5\t1\tthing {i}, other" for i in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(lines))
    data = ade20k.build(ade20k.Config(str(tmp_path)))
    assert (len(data.classes), data.classes[0], data.classes[149]) == (150, "thing 1", "thing 150")
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 2, "val": 2}
    assert (annotation(data.splits["val"], "0.jpg") == halves(IGNORE, 149)).all()
    kept = ade20k.build(ade20k.Config(str(tmp_path), zero="keep"))
    assert (len(kept.classes), kept.classes[0]) == (151, "other")
    assert (annotation(kept.splits["val"], "0.jpg") == halves(0, 150)).all()
    (tmp_path / "objectInfo150.txt").write_text("\n".join(lines[:9]))
    assert "names 8 classes" in problem(ade20k, tmp_path)
    (tmp_path / "objectInfo150.txt").unlink()
    assert ade20k.build(ade20k.Config(str(tmp_path))).classes == ("149", "150")


def test_voc(tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part, start in (("train", 0), ("val", 3)):
        for i in range(start, start + 3):
            make_image(tmp_path / "JPEGImages" / f"2007_{i}.jpg", i)
            mask(tmp_path / "SegmentationClass" / f"2007_{i}.png", halves(20, 255), palette=True)
        (lists / f"{part}.txt").write_text("\n".join(f"2007_{i}" for i in range(start, start + 3)) + "\n")
    (tmp_path / "SegmentationClass" / "2007_5.png").unlink()
    assert catalog.detect_layout(str(tmp_path)) == "voc_masks"
    data = voc_masks.build(voc_masks.Config(str(tmp_path)))
    assert (len(data.classes), data.classes[20]) == (21, "tvmonitor")
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 3, "val": 2}
    assert (data.splits["train"].annotation(0) == halves(20, IGNORE)).all()
    assert data.notes == (
        "left out, as the image or its mask does not exist: 1 name of the lists, the first 2007_5",
        "left out, as they lack a mask: 1 image",
        "255, the border of objects, is ignored",
    )
    (lists / "train.txt").write_text("../../etc\n")
    (lists / "val.txt").unlink()
    assert "no list in ImageSets" in problem(voc_masks, tmp_path)


@pytest.mark.parametrize(("kind", "values"), [("labelTrainIds", halves(0, 18)), ("labelIds", halves(7, 33))])
def test_cityscapes(tmp_path, kind, values):
    values[0, 0] = 255 if kind == "labelTrainIds" else 4
    for part in ("train", "val", "test"):
        for i in range(2):
            name = f"{part}/aachen/aachen_{i:06}_000019"
            make_image(tmp_path / "leftImg8bit" / f"{name}_leftImg8bit.png", i)
            mask(tmp_path / "gtFine" / f"{name}_gtFine_{kind}.png", values)
            mask(tmp_path / "gtFine" / f"{name}_gtFine_color.png", halves(1, 2))
    assert catalog.detect_layout(str(tmp_path)) == "cityscapes"
    data = cityscapes.build(cityscapes.Config(str(tmp_path)))
    assert (len(data.classes), data.classes[0], data.classes[18]) == (19, "road", "bicycle")
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 2, "val": 2}
    assert any("as the masks of their part are not published: 2 images" in note for note in data.notes)
    wanted = halves(0, 18)
    wanted[0, 0] = IGNORE
    assert (data.splits["train"].annotation(0) == wanted).all()
    (tmp_path / "leftImg8bit" / "train").rename(tmp_path / "elsewhere")
    assert "names val but no train" in " ".join(cityscapes.build(cityscapes.Config(str(tmp_path))).notes)
    (tmp_path / "leftImg8bit" / "val").rename(tmp_path / "too")
    assert "has no image with a mask such as" in problem(cityscapes, tmp_path)


# anything at all


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"]))
def test_bytes_that_are_no_mask(tmp_path, data, start):
    (tmp_path / "m.png").write_bytes(start + data)
    with pytest.raises(BadImage, match=r"m\.png "):
        read_values(tmp_path / "m.png")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_table_is_read_or_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", errors="replace")
    told, found = "", None
    try:
        found = find_class_table([tmp_path], 0)
    except DataError as error:
        told = str(error)
    assert told.startswith(str(tmp_path)) if found is None else found[0].codes.shape == (256,)
