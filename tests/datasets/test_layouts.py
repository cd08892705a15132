"""Each layout on disk gives the images, the labels and the notes that it should, or says in words, with a line number,
what is wrong."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.dataset import Entry
from vitrail.data.fingerprint import differences, fingerprint, read_entries, write_entries
from vitrail.datasets import idx, imagefolder, mini, npz, table
from vitrail.errors import BadImage, DataError, UsageError

LAYOUTS = (mini, imagefolder, table, idx, npz)


def put(path: Path, colour=(1, 2, 3), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3), colour).save(path, "PNG")
    return path


def folder(root: Path, counts: dict[str, int], mode="RGB") -> Path:
    """Class folders with that many images in each."""
    for i, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for j in range(count):
            put(root / name / f"{j}.png", (i, j, 0) if mode == "RGB" else i, mode)
    return root


def problem(layout, path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        layout.build(layout.Config(str(path), **settings))
    assert str(caught.value).count("\n") < 5
    return str(caught.value)


# the set that comes with the package


def test_mini():
    data = mini.build(mini.Config())
    assert {part: split.array.shape for part, split in data.splits.items()} == {
        "train": (10_000, 28, 28, 1),
        "test": (2_000, 28, 28, 1),
    }
    assert (data.channels, len(data.classes), data.multi_label) == (1, 10, False)
    digest = hashlib.sha256()
    for split in data.splits.values():
        assert np.bincount(split.labels, minlength=10).min() > 150
        digest.update(split.array.tobytes() + split.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "89c1625cd754a717665e6f8e7ca23ccfee53ddfff110fbdaf831f6aeb315cbe8"


def test_mini_is_small_and_carries_its_licence():
    files = [p for p in Path(mini.__file__).parent.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 6_000_000
    assert "2017 Zalando SE" in next(p for p in files if p.name == "LICENSE.fashion-mnist").read_text(encoding="utf-8")


def test_mini_is_part_of_the_original():
    if not (folder := os.environ.get("VITRAIL_DATA")):
        pytest.skip("VITRAIL_DATA does not name a folder with fashion-mnist/ in it")
    whole = idx.build(idx.Config(str(Path(folder) / "fashion-mnist")))
    assert whole.classes == mini.CLASSES
    for part, split in mini.build(mini.Config()).splits.items():
        original = whole.splits[part].select(mini.choose_indices(part, len(whole.splits[part])))
        assert (split.array == original.array).all()
        assert (split.labels == original.labels).all()


def test_no_torch():
    code = "import sys, vitrail.datasets.mini as m; m.build(m.Config())"
    code += "; from vitrail.datasets import imagefolder, table, idx, npz; from vitrail.data.survey import images"
    code += "; from vitrail.data import fingerprint; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_exactly_one_layout_takes_a_path(tmp_path):
    folder(tmp_path / "images", {"a": 1, "b": 1})
    write_idx(tmp_path / "digits")
    write_npz(tmp_path / "some.npz")
    (tmp_path / "some.csv").write_text("path,label\n")
    paths = ["mini", *(str(tmp_path / name) for name in ("images", "digits", "some.npz", "some.csv"))]
    assert [[m.__name__.split(".")[-1] for m in LAYOUTS if m.matches(p)] for p in paths] == [
        ["mini"],
        ["imagefolder"],
        ["idx"],
        ["npz"],
        ["table"],
    ]
    assert not any(m.matches(str(tmp_path / "none")) for m in LAYOUTS)


# folders: D07


def test_folder_with_parts(tmp_path):
    for part, n in (("Train", 3), ("valid", 2), ("TEST", 1)):
        folder(tmp_path / part, {"class 10": n, "class 2": n})
    data = imagefolder.build(imagefolder.Config(str(tmp_path)))
    assert data.classes == ("class 2", "class 10")
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 6, "val": 4, "test": 2}
    split = data.splits["val"]
    assert [data.classes[y] for y in split.labels] == [Path(n).parent.name for n in split.names]
    assert split.read(0).shape == (3, 4, 3)
    assert len(data.entries) == 12
    assert data.entries[0].size == (tmp_path / data.entries[0].name).stat().st_size
    assert (pickle.loads(pickle.dumps(split)).read(1) == split.read(1)).all()  # noqa: S301 - what a worker process receives
    assert split.select(np.array([3, 0])).read(1).tolist() == split.read(0).tolist()


def test_folder_without_parts_is_split_by_name(tmp_path):
    one = imagefolder.build(imagefolder.Config(str(folder(tmp_path / "one", {"a": 20, "b": 10, "c": 1}))))
    assert {part: np.bincount(s.labels, minlength=3).tolist() for part, s in one.splits.items()} == {
        "train": [16, 8, 1],
        "val": [4, 2, 0],
    }
    assert "6 of 31 training images are held out as val, chosen by name with seed 0" in one.notes[-1]
    for name in sorted(
        one.splits["train"].names + one.splits["val"].names, reverse=True
    ):  # found in another order elsewhere
        (tmp_path / "two" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "one" / name, tmp_path / "two" / name)
    two = imagefolder.build(imagefolder.Config(str(tmp_path / "two")))
    assert two.splits["val"].names == one.splits["val"].names
    other = imagefolder.build(imagefolder.Config(str(tmp_path / "one"), seed=1))
    assert other.splits["val"].names != one.splits["val"].names
    assert set(imagefolder.build(imagefolder.Config(str(tmp_path / "one"), held_out=0)).splits) == {"train"}
    with pytest.raises(UsageError, match="held_out"):
        imagefolder.build(imagefolder.Config(str(tmp_path / "one"), held_out=1.0))


def test_folder_empty_class(tmp_path):
    note = "left out, as they hold no images: 1 folder (b/)"
    assert f"one class only (a) ({note})" in problem(imagefolder, folder(tmp_path, {"a": 2, "b": 0}))
    folder(tmp_path, {"c": 2})
    data = imagefolder.build(imagefolder.Config(str(tmp_path)))
    assert data.classes == ("a", "c")
    assert note in data.notes


def test_folder_nested(tmp_path):
    put(folder(tmp_path, {"a": 1, "b": 1}) / "a" / "deep" / "er" / "x.png")
    data = imagefolder.build(imagefolder.Config(str(tmp_path), held_out=0))
    assert list(zip(data.splits["train"].names, data.splits["train"].labels, strict=True)) == [
        ("a/0.png", 0),
        ("a/deep/er/x.png", 0),
        ("b/0.png", 1),
    ]


def test_folder_litter(tmp_path):
    folder(tmp_path, {"a": 2, "b": 2, ".git": 1})
    for name in ("a/Thumbs.db", "a/.DS_Store", "b/notes.txt"):
        (tmp_path / name).write_text("x")
    data = imagefolder.build(imagefolder.Config(str(tmp_path), held_out=0))
    assert data.classes == ("a", "b")
    assert "1 files that are not images were left out: 1 .txt" in data.notes
    assert "3 hidden files or folders were left out" in data.notes


def test_folder_links(tmp_path):
    root = folder(tmp_path / "set", {"a": 2, "b": 2})
    outside = put(tmp_path / "outside" / "x.png")
    (root / "a" / "circle").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "away").symlink_to(tmp_path / "outside")
    (root / "a" / "away.png").symlink_to(outside)
    (root / "a" / "nowhere.png").symlink_to(root / "none.png")
    (root / "b" / "inside.png").symlink_to(root / "a" / "0.png")
    (tmp_path / "door").symlink_to(root)
    data = imagefolder.build(imagefolder.Config(str(tmp_path / "door"), held_out=0))
    assert data.splits["train"].names == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/inside.png"]
    assert any(note.startswith("5 symbolic links were not followed") for note in data.notes)


def test_folder_names_that_differ_by_case(tmp_path):
    put(folder(tmp_path, {"a": 2, "b": 2}) / "a" / "0.PNG")
    if len(list((tmp_path / "a").iterdir())) == 2:
        pytest.skip("this file system does not tell upper from lower case")
    assert (
        "1 names differ only in case, such as a/0.PNG and a/0.png"
        in imagefolder.build(imagefolder.Config(str(tmp_path))).notes
    )


def test_folder_unreadable_file(tmp_path):
    root = folder(tmp_path, {"a": 2, "b": 2})
    data = imagefolder.build(imagefolder.Config(str(root), held_out=0))
    (root / "a" / "0.png").unlink()
    (root / "a" / "0.png").mkdir()  # what a reader without rights meets is another number of the same error
    with pytest.raises(BadImage, match=r"a/0\.png cannot be read"):
        data.splits["train"].read(0)


def test_folder_one_class(tmp_path):
    assert "one class only (a)" in problem(imagefolder, folder(tmp_path, {"a": 2}))


def test_folder_without_images(tmp_path):
    assert "no folders in it" in problem(imagefolder, tmp_path)
    put(tmp_path / "loose.png")
    assert "1 images outside class folders" in problem(imagefolder, tmp_path)


def test_folder_val_class_that_train_lacks(tmp_path):
    folder(tmp_path / "train", {"cat": 1, "dog": 1})
    folder(tmp_path / "val", {"cat": 1, "dogs": 1})
    assert "val has classes that train does not have: dogs\ntrain has cat, dog" in problem(imagefolder, tmp_path)


def test_folder_val_without_a_class(tmp_path):
    folder(tmp_path / "train", {"cat": 1, "dog": 1})
    folder(tmp_path / "val", {"cat": 1})
    put(tmp_path / "train" / "stray.png")
    (tmp_path / "extra").mkdir()
    notes = imagefolder.build(imagefolder.Config(str(tmp_path))).notes
    assert "val has no images of 1 classes: dog" in notes
    assert "left out, as they are in no class folder: 1 image, the first train/stray.png" in notes
    assert "folders beside train/ were left out: extra" in notes


def test_folder_that_is_not_there(tmp_path):
    folder(tmp_path / "images", {"a": 1})
    assert f"did you mean {tmp_path / 'images'}?" in problem(imagefolder, tmp_path / "image")
    assert "exists, but no folder below it" in problem(imagefolder, tmp_path / "no" / "where")
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in problem(imagefolder, tmp_path / "file")
    assert "images contains a" in problem(imagefolder, tmp_path / "images" / "zzz")


def test_folder_parts_that_clash_and_a_railway(tmp_path):
    for part in ("train", "val", "valid"):
        folder(tmp_path / "two" / part, {"a": 1, "b": 1})
    assert "two folders for the split val" in problem(imagefolder, tmp_path / "two")
    folder(tmp_path / "lone" / "test", {"a": 1, "b": 1})
    assert set(imagefolder.build(imagefolder.Config(str(tmp_path / "lone"))).splits) == {"test"}
    railway = folder(tmp_path / "vehicles", {"bus": 2, "train": 2})
    assert imagefolder.build(imagefolder.Config(str(railway))).classes == ("bus", "train")


def test_channels_are_those_of_the_data(tmp_path):
    grey = folder(tmp_path / "grey", {"a": 2, "b": 2}, mode="L")
    data = imagefolder.build(imagefolder.Config(str(grey)))
    assert (data.channels, data.splits["train"].read(0).shape) == (1, (3, 4, 1))
    assert imagefolder.build(imagefolder.Config(str(grey), channels=3)).splits["train"].read(0).shape == (3, 4, 3)
    put(grey / "a" / "colour.png")
    assert imagefolder.build(imagefolder.Config(str(grey))).channels == 3
    with pytest.raises(UsageError, match="2 channels"):
        imagefolder.build(imagefolder.Config(str(grey), channels=2))


# tables: D08


def sheet(root: Path, text: str, name="t.csv", images=6) -> Path:
    for i in range(images):
        put(root / "img" / f"{i}.png", (i, i, i))
    (root / name).write_bytes(text.encode())
    return root / name


def rows(*labels: str, head="path,label", sep=",") -> str:
    return "\n".join([head, *(f"img/{i}.png{sep}{label}" for i, label in enumerate(labels))]) + "\n"


TEN = ("0", "1", "2")
REFUSED = {
    "out of range": (rows("0", "1", "3"), TEN, "line 4: label '3' is out of range: there are 3 classes"),
    "negative": (rows("0", "-1", "1"), (), "line 3: label '-1' is negative"),
    "nan": (rows("0", "1", "nan"), (), "line 4: label 'nan' is not a number"),
    "float": (rows("0", "1.5", "1"), TEN, "line 3: label '1.5' is not a whole number"),
    "empty": (rows("cat", "", "dog"), (), "line 3: label '' is empty"),
    "missing file": (rows(*"abab") + "img/7.png,a\n", (), "line 6: img/7.png does not exist"),
    "another label": (rows("a", "b") + "img/./0.png,b\n", (), "line 4: img/0.png has another label than in line 2"),
    "unknown name": (
        rows("cat", "dgo"),
        ("cat", "dog"),
        "line 3: label 'dgo' is not among the classes; did you mean 'dog'?",
    ),
    "short line": (rows("a", "b") + "img/2.png\n", (), "line 4: 1 columns, but 2 are needed"),
    "unknown part": ("path,label,split\nimg/0.png,a,train\nimg/1.png,b,trian\n", (), "line 3: split is 'trian'"),
    "no heading": ("img/0.png,a\nimg/1.png,b\n", (), "line 1: no column path or file or filename or file_name"),
    "another part": (
        "path,label,split\nimg/0.png,a,train\nimg/1.png,b,val\nimg/0.png,a,val\n",
        (),
        "line 4: img/0.png has another split than in line 2",
    ),
    "empty path": ("path,label\nimg/0.png,a\n,b\n", (), "line 3: the path of the image is empty"),
    "one class": (rows("a", "a"), (), "all labels are 'a'"),
    "empty number": (rows("0", "1", ""), (), "line 4: label '' is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_table_refuses_with_the_line(tmp_path, case):
    text, classes, wanted = REFUSED[case]
    assert wanted in problem(table, sheet(tmp_path, text), classes=classes)


def test_table_counts_the_lines_like_it(tmp_path):
    assert "(and 2 lines like it)" in problem(table, sheet(tmp_path, rows("a", "", "", "b", "")))


def test_table_reads_names_numbers_and_parts(tmp_path):
    text = "id,File,Class,Split\n1,img/0.png,dog,train\n2,img/1.png,cat,Train\n"
    text += "3,img/2.png,dog,VALID\n4,img\\3.png,cat,test\n"
    data = table.build(table.Config(str(sheet(tmp_path, text))))
    assert data.classes == ("cat", "dog")
    assert {p: (s.names, s.labels.tolist()) for p, s in data.splits.items()} == {
        "train": (["img/0.png", "img/1.png"], [1, 0]),
        "val": (["img/2.png"], [1]),
        "test": (["img/3.png"], [0]),
    }
    assert data.splits["test"].read(0)[0, 0].tolist() == [3, 3, 3]
    assert [e.name for e in data.entries] == ["t.csv", "img/0.png", "img/1.png", "img/2.png", "img/3.png"]


def test_table_numbers_and_class_names(tmp_path):
    path = sheet(tmp_path, rows("10", "2", "02", "10"))
    data = table.build(table.Config(str(path), held_out=0))
    assert (data.classes, data.splits["train"].labels.tolist()) == (("2", "10"), [1, 0, 0, 1])
    named = table.build(table.Config(str(sheet(tmp_path, rows("1", "0"))), held_out=0, classes=("cat", "dog", "owl")))
    assert (named.classes, named.splits["train"].labels.tolist()) == (("cat", "dog", "owl"), [1, 0])


@pytest.mark.parametrize(("name", "sep"), [("t.csv", ","), ("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", "\t")])
def test_table_separators_byte_order_marks_and_line_ends(tmp_path, name, sep):
    text = "\ufeff" + rows("a", "b", "a", head=f"path{sep}label", sep=sep).replace("\n", "\r\n")
    data = table.build(table.Config(str(sheet(tmp_path, text, name)), held_out=0))
    assert (data.classes, data.splits["train"].labels.tolist()) == (("a", "b"), [0, 1, 0])


def test_table_several_labels(tmp_path):
    data = table.build(table.Config(str(sheet(tmp_path, rows("cat|dog", "dog", "owl; cat"))), held_out=0))
    assert data.multi_label
    assert (data.classes, data.splits["train"].labels.dtype) == (("cat", "dog", "owl"), np.uint8)
    assert data.splits["train"].labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_table_repeats_and_held_out(tmp_path):
    path = sheet(tmp_path, rows(*"aaaaabbbbb") + "img/3.png,a\n", images=10)
    data = table.build(table.Config(str(path)))
    assert "1 lines repeat an earlier line and were left out" in data.notes
    assert {p: np.bincount(s.labels).tolist() for p, s in data.splits.items()} == {"train": [4, 4], "val": [1, 1]}


def test_table_other_columns_and_other_troubles(tmp_path):
    path = sheet(tmp_path, rows("a", "b", head="where,what"))
    assert "--data.image-column NAME --data.label-column NAME" in problem(table, path)
    assert len(table.build(table.Config(str(path), image_column="where", label_column="What")).classes) == 2
    assert "there is no such file" in problem(table, tmp_path / "none.csv")
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    assert "line 2: not UTF-8" in problem(table, tmp_path / "t.csv")
    assert "has no images" in problem(table, sheet(tmp_path, "path,label\n"))


def columns(tmp_path, text, **keys):
    """A table without a held-out part: classes, labels and notes."""
    data = table.build(table.Config(str(sheet(tmp_path, text)), held_out=0, **keys))
    return data.classes, data.splits["train"].labels.tolist(), " | ".join(data.notes)


def test_table_a_column_that_is_no_split(tmp_path):
    text = "path,label,part\n" + "".join(f"img/{i}.png,{'ab'[i % 2]},{['elbow', 'hand'][i % 2]}\n" for i in range(4))
    classes, labels, notes = columns(tmp_path, text)
    assert (classes, labels) == (("a", "b"), [0, 1, 0, 1])
    assert "the column part is not taken for the split: its values are elbow, hand" in notes
    assert columns(tmp_path, text, split_column="none")[:2] == (classes, labels)
    assert "part is 'elbow' (and 3 lines like it)" in problem(table, tmp_path / "t.csv", split_column="part")
    other = "path,label,fold\nimg/0.png,a,train\nimg/1.png,b,train\nimg/2.png,b,dev\n".replace("dev", "val")
    data = table.build(table.Config(str(sheet(tmp_path, other)), split_column="Fold"))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 2, "val": 1}
    assert "columns that are not read: fold" in columns(tmp_path, other)[2]


def test_table_of_names_without_suffix_in_another_folder(tmp_path):
    text = "id_code,diagnosis,age\n" + "".join(f"{i},{i % 2},9\n" for i in range(4))
    wanted = (("0", "1"), [0, 1, 0, 1])
    keys = {"image_column": "id_code", "label_column": "diagnosis", "folder": "img", "suffix": ".png"}
    assert columns(tmp_path, text, **keys)[:2] == wanted
    assert "there is img/0.png: --data.folder img --data.suffix .png" in problem(table, tmp_path / "t.csv")
    assert columns(tmp_path, text, folder=str(tmp_path / "img"), suffix="png")[:2] == wanted


def test_table_a_column_a_class(tmp_path):
    head = "path,cat,dog,bird,age\n"
    several = head + "".join(f"img/{i}.png,{i % 2},{(i + 1) % 2},{int(i % 3 == 0)},{i + 2}\n" for i in range(4))
    classes, labels, notes = columns(tmp_path, several)
    assert (classes, labels) == (("cat", "dog", "bird"), [[0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 0, 1]])
    assert "3 columns of 0 and 1 are the classes cat, dog, bird | columns that are not read: age" in notes
    one = head + "img/0.png,1.0,0.0,0,5\nimg/1.png,0,True,,6\nimg/2.png,0,0,1,7\n"
    assert columns(tmp_path, one)[:2] == (classes, [0, 1, 2])  # exactly one in every line
    assert columns(tmp_path, several, classes=("bird", "cat"))[:2] == (
        ("bird", "cat"),
        [[1, 0], [0, 1], [0, 0], [1, 1]],
    )
    bad = head + "img/0.png,1,-1,0,5\nimg/1.png,0,1,1,6\n"
    assert "column dog is '-1'" in problem(table, sheet(tmp_path, bad), classes=("cat", "dog"))


@pytest.mark.parametrize(
    ("cells", "keys", "classes", "labels"),
    [
        (('"a,b"', "a", "b"), {}, ("a", "b"), [[1, 1], [1, 0], [0, 1]]),
        (("\"['a', 'b']\"", "['a']", "['b']"), {}, ("a", "b"), [[1, 1], [1, 0], [0, 1]]),
        (("[a b]", "[]", "[b]"), {}, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        (("a|b", "", "b"), {}, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        (('"a, b"', "", "b"), {"label_separator": ","}, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        (('"a,b"', "a", "b"), {"label_separator": "none"}, ("a", "a,b", "b"), [1, 0, 2]),
        (('"x, y"', "z", '"x, w"'), {}, ("x, w", "x, y", "z"), [1, 2, 0]),  # one name: x and y stand nowhere alone
        (("a b", "a", "b"), {"label_separator": " "}, ("a", "b"), [[1, 1], [1, 0], [0, 1]]),
        (("007", "010", "7000"), {}, ("007", "010", "7000"), [0, 1, 2]),
        (("007", "7", "10"), {}, ("7", "10"), [0, 0, 1]),
        (("1.0", "0", "2.0"), {}, ("0", "1", "2"), [1, 0, 2]),
        (("007", "010", "007"), {"classes": ("010", "007")}, ("010", "007"), [1, 0, 1]),
    ],
)
def test_table_labels_of_every_spelling(tmp_path, cells, keys, classes, labels):
    assert columns(tmp_path, rows(*cells), **keys)[:2] == (classes, labels)


def test_table_labels_that_could_be_several_are_told(tmp_path):
    assert "labels are split at commas: 'a,b' is a and b" in columns(tmp_path, rows('"a,b"', "a", "b"))[2]
    assert "such as 'x, y'; --data.label-separator , splits" in columns(tmp_path, rows('"x, y"', "z", "w"))[2]
    assert (
        "labels with blanks are taken as one class each, such as 'a b'; --data.label-separator ' '"
        in columns(tmp_path, rows("a b", "a", "b"))[2]
    )
    assert "blanks" not in columns(tmp_path, rows("red car", "blue car", "cat"))[2]
    assert "1 lines without a label are images of none" in columns(tmp_path, rows("a|b", "", "b"))[2]


def test_a_table_with_a_label_of_its_own_for_every_line_is_refused(tmp_path):
    for joined in ("", "|x"):
        text = "path,label,kind\n" + "".join(f"img/{i}.png,id{i}{joined},a\n" for i in range(50_000))
        assert "different labels for 50,000 images" in problem(table, sheet(tmp_path, text))
    assert "is not among the classes" in problem(table, sheet(tmp_path, text), classes=("cat", "dog"))


def test_a_long_table_is_refused(tmp_path):
    text = "path,label\n" + "".join(f"img/{i}.png,{i % 10}\n" for i in range(200_000)) + "img/x.png,-3\n"
    assert "line 200002: label '-3' is negative" in problem(table, sheet(tmp_path, text))


# IDX files


def write_idx(root: Path, n=6, labels=None, zipped=True, name="train") -> Path:
    root.mkdir(exist_ok=True)
    images = np.arange(n * 12, dtype=np.uint8).reshape(n, 3, 4)
    y = np.arange(n, dtype=np.uint8) % 3 if labels is None else np.array(labels, np.uint8)
    for kind, a in (("images-idx3", images), ("labels-idx1", y)):
        data = bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()
        path = root / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(data) if zipped else data)
    return root


@pytest.mark.parametrize("zipped", [True, False])
def test_idx(tmp_path, zipped):
    write_idx(tmp_path / "kmnist", zipped=zipped)
    data = idx.build(idx.Config(str(write_idx(tmp_path / "kmnist", 4, zipped=zipped, name="t10k"))))
    assert data.classes == tuple("0123456789")
    assert {p: s.array.shape for p, s in data.splits.items()} == {"train": (6, 3, 4, 1), "test": (4, 3, 4, 1)}
    assert data.splits["train"].read(2)[0, :, 0].tolist() == [24, 25, 26, 27]
    assert data.splits["train"].array.flags.writeable
    assert (data.splits["test"].labels.tolist(), len(data.entries)) == ([0, 1, 2, 0], 4)
    assert idx.build(idx.Config(str(write_idx(tmp_path / "my-Fashion")))).classes == mini.CLASSES
    assert idx.build(idx.Config(str(tmp_path / "kmnist"), classes=("a", "b", "c"))).classes == ("a", "b", "c")
    assert "has label 2, but there are 2 classes" in problem(idx, tmp_path / "kmnist", classes=("a", "b"))


def test_idx_damage(tmp_path):
    root = write_idx(tmp_path / "set", zipped=False)
    images, labels = root / "train-images-idx3-ubyte", root / "train-labels-idx1-ubyte"
    good = images.read_bytes()
    for data, wanted in (
        (good[:-1], "claims 72 bytes (6 x 3 x 4), but there are 71"),
        (good + b"x", "but there are more"),
        (good[:2], "truncated"),
        (good[:8], "impossible shape"),
        (good[:4] + b"\xff" * 12, "impossible shape"),
        (b"\0\0\x0b" + good[3:], "not an IDX file of unsigned bytes"),
        (labels.read_bytes(), "1 axes instead of 3"),
    ):
        images.write_bytes(data)
        assert wanted in problem(idx, root)
    images.write_bytes(good)
    labels.unlink()
    assert "the labels of train are missing" in problem(idx, root)
    images.unlink()
    zipped = write_idx(root) / "train-images-idx3-ubyte.gz"
    whole = zipped.read_bytes()
    for data in (whole[: len(whole) // 2], b"\x1f\x8b" + whole[30:], b"<html>"):
        zipped.write_bytes(data)
        problem(idx, root)
    write_idx(root, labels=[0, 1])
    assert "6 images but 2 labels" in problem(idx, root)


# NPZ files


def write_npz(path: Path, images=None, labels=None, **more) -> Path:
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4) if images is None else images
    np.savez(
        path,
        train_images=images,
        train_labels=np.arange(len(images))[:, None] % 3 if labels is None else labels,
        **more,
    )
    return path


def test_npz(tmp_path):
    path = write_npz(tmp_path / "x.npz", test_images=np.zeros((2, 4, 4), np.uint8), test_labels=np.array([2, 1]))
    data = npz.build(npz.Config(str(path)))
    assert (data.classes, data.channels, list(data.splits)) == (("0", "1", "2"), 1, ["train", "test"])
    assert data.splits["train"].labels.tolist() == [0, 1, 2, 0, 1]
    assert data.splits["train"].read(1).shape == (4, 4, 1)
    blood = npz.build(npz.Config(str(write_npz(tmp_path / "BloodMNIST_64.npz"))))
    assert blood.classes[3] == "immature granulocytes"
    assert npz.build(npz.Config(str(path), classes=("a", "b", "c"))).classes == ("a", "b", "c")
    many = npz.build(npz.Config(str(write_npz(tmp_path / "m.npz", labels=np.eye(5, 7, dtype=np.int64)))))
    assert many.multi_label
    assert (len(many.classes), many.splits["train"].labels.dtype) == (7, np.uint8)


def test_npz_any_number_type_and_channels(tmp_path):
    ramp = np.arange(2 * 4 * 4 * 5).reshape(2, 4, 4, 5)
    cases = [
        (ramp.astype(np.uint8), ramp),
        (ramp.astype(np.int64), ramp),
        ((ramp * 400).astype(np.uint16), np.rint(ramp * 400 * 255 / 65535)),
        (ramp / 200, np.rint(ramp / 200 * 255)),
        (ramp * 2.0, np.rint(ramp * 255 / 159)),
        (ramp % 2 == 0, (ramp % 2 == 0) * 255),
    ]
    for images, wanted in cases:
        data = npz.build(npz.Config(str(write_npz(tmp_path / "x.npz", images))))
        assert data.channels == 5
        assert (data.splits["train"].array == wanted).all()
    assert "not finite" in problem(npz, write_npz(tmp_path / "x.npz", np.full((2, 4, 4), np.nan)))


def test_npz_troubles(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros(3))
    assert "no train_images (it has images.npy)" in problem(npz, path)
    np.savez(path, train_images=np.zeros((3, 4, 4), np.uint8))
    assert "has train_images but no train_labels" in problem(npz, path)
    assert "label -1" in problem(npz, write_npz(path, labels=np.array([0, 1, -1, 0, 0])))
    assert "has label 3, but" in problem(
        npz, write_npz(path, labels=np.array([0, 1, 3, 0, 0])), classes=("a", "b", "c")
    )
    assert "5 images but 2 labels" in problem(npz, write_npz(path, labels=np.array([0, 1])))
    assert "not whole numbers" in problem(npz, write_npz(path, labels=np.array([0.5] * 5)))
    assert "values other than 0 and 1" in problem(npz, write_npz(path, labels=np.full((5, 4), 2)))
    assert "channels are the second axis" in problem(npz, write_npz(path, np.zeros((5, 3, 8, 8), np.uint8)))
    assert "has volumes" in problem(npz, write_npz(tmp_path / "organmnist3d.npz", np.zeros((5, 8, 8, 8), np.uint8)))
    assert "Python objects" in problem(npz, write_npz(path, labels=np.array([{}] * 5, object)))
    whole = write_npz(path).read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"<html>", whole[:100] + b"spoiled" + whole[107:]):
        path.write_bytes(data)
        assert "truncated or not an NPZ" in problem(npz, path)
    assert "did you mean" in problem(npz, tmp_path / "xx.npz")


def test_npz_bombs_are_refused_before_they_unpack(tmp_path):
    def member(shape):
        out = io.BytesIO()
        np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": "|u1"})
        return out.getvalue()

    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train_images.npy", member((2**20, 2**10, 2**10)) + b"\0" * 1000)
        file.writestr("train_labels.npy", member((2**20,)) + b"\0" * 1000)
    assert "unpacks to 1,099," in problem(npz, tmp_path / "x.npz")


# D09: whether a data set has changed


def test_changes(tmp_path):
    old = [Entry(f"a/{i}.png", 10 + i, 1000 + i) for i in range(20)]
    assert fingerprint(old) == fingerprint(reversed(old))
    assert differences(old, old) == []
    cases = {
        "added": ([*old, Entry("b/new.png", 1, 1)], "1 added: b/new.png"),
        "removed": (old[1:], "1 removed: a/0.png"),
        "renamed": ([old[0]._replace(name="z.png"), *old[1:]], "1 added: z.png"),
        "resized": ([old[0]._replace(size=99, modified=5), *old[1:]], "1 resized: a/0.png"),
        "touched": (
            [old[0]._replace(modified=5), *old[1:]],
            "1 touched (same size, another modification time): a/0.png",
        ),
        "many": (
            [e._replace(size=0) for e in old],
            "20 resized: a/0.png, a/1.png, a/10.png, a/11.png, a/12.png, and 15 more",
        ),
    }
    for new, wanted in cases.values():
        assert fingerprint(new) != fingerprint(old)
        assert wanted in differences(old, new)


def test_entries_come_back_as_they_were(tmp_path):
    entries = (Entry("a\nb%0A.png", 1, 2), Entry("c\td\udcff.png", 3, 4))
    for name in ("one", "two"):
        write_entries(tmp_path / name, reversed(entries))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_entries(tmp_path / "one") == entries
    write_entries(tmp_path / "none", [])
    assert read_entries(tmp_path / "none") == ()
    (tmp_path / "one").write_bytes(b"spoiled")
    for path in ("one", "missing"):
        with pytest.raises(DataError, match="cannot be read"):
            read_entries(tmp_path / path)


def test_a_folder_changes_with_its_files(tmp_path):
    root = folder(tmp_path, {"a": 2, "b": 2})

    def look():
        return imagefolder.build(imagefolder.Config(str(root))).entries

    before = look()
    put(root / "a" / "new.png")
    os.utime(root / "b" / "0.png", ns=(1, 1))
    assert differences(before, look()) == [
        "1 added: a/new.png",
        "1 touched (same size, another modification time): b/0.png",
    ]
