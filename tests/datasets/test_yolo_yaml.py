"""data.yaml is read as its writer meant it: names, numbers, lists of files, folders anywhere; and what is wrong is told
with its line."""

import shutil
from pathlib import Path

import pytest
from dense_data import boxes, make_image, problem

from vitrail.data.annotations import yolo_yaml
from vitrail.datasets import yolo
from vitrail.errors import DataError

NAMES = {
    "names: {1: dog, 0: cat}": ["cat", "dog"],
    "names: ['light, red', dog]": ["light, red", "dog"],
    "names: {0: 'a, b', 1: c}": ["a, b", "c"],
    "names:\n  - 'cat #1'\n  - dog": ["cat #1", "dog"],
    "names: ['cat #1', dog]": ["cat #1", "dog"],
    "names:\n  '0': cat\n  '1': dog": ["cat", "dog"],
    "names: ['cat',\n  'dog']": ["cat", "dog"],
    "names: {cat: 0, dog: 1}": ["cat", "dog"],
    "names: [no, yes, null, 007, 1e3, 2020-01-01]": ["no", "yes", "null", "007", "1e3", "2020-01-01"],
    'names: ["null", ~x, "caf\\u00e9"]': ["null", "~x", "café"],
    "names: &n\n- cat\n- dog\nother: *n": ["cat", "dog"],
    "names: !!python/tuple [cat, dog]": ["cat", "dog"],
    "names: # later\n- a: b": None,
    "names: >-\n  cat\n  dog": None,
    "names: {0: cat, 0: dog}": None,
    "names: {0: cat, 00: dog}": None,
    "names: {0: cat, 2: dog}": None,
    "names: {x: cat, 1: dog}": None,
    "names: [[cat], dog]": None,
    "names: [cat]\nnames: [dog]": None,
}


@pytest.mark.parametrize("text", NAMES)
def test_names(tmp_path, text):
    file = tmp_path / "data.yaml"
    file.write_text(f"# of a tool\ntrain: images\n{text}\n", encoding="utf-8-sig")
    if NAMES[text] is None:
        with pytest.raises(DataError, match=r"data\.yaml, line [345]: "):
            yolo.read_settings(file)
    else:
        assert yolo.read_settings(file)["names"] == NAMES[text]


ODD = {  # what it is and what it says, or "" where it is read
    "lists": (b"[" * 20_000, "line 1: lists in lists in lists"),
    "mappings": (b"{a: " * 20_000, "line 1: lists in lists in lists"),
    "aliases": (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 121)),
        "",
    ),
    "merges": (b"a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nnames: *b\n", "line 2: a class name is a sequence"),
    "control characters": (b"names: [a\x01, b]\n", "is not YAML"),
    "no characters": (b'names: ["\\UFFFFFFFF"]\n', "data.yaml"),
    "a tab": (b"names:\n\t- cat\n", "line 2: found character"),
    "nothing": (b"", "has no keys"),
    "a list": (b"- names\n", "has no keys"),
    "a quote that does not end": (b"names: ['a, b]\ntrain: x\n", "line 1: "),
    "too much": (b"#" * (yolo_yaml.LARGEST + 1), "more than the limit"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_documents_are_refused_or_read_at_once(tmp_path, kind):
    (tmp_path / "data.yaml").write_bytes(ODD[kind][0])
    if ODD[kind][1]:
        with pytest.raises(DataError) as caught:
            yolo.read_settings(tmp_path / "data.yaml")
        assert ODD[kind][1] in str(caught.value)
        assert str(caught.value).count("\n") < 5
    else:
        assert yolo.read_settings(tmp_path / "data.yaml") == {}


def put(root: Path, *parts: str, line: str = "1 0.5 0.5 0.2 0.4\n") -> Path:
    """Three images with labels in images/PART and labels/PART."""
    for number, part in enumerate(parts):
        for i in range(3):
            make_image(root / "images" / part / f"{i}.jpg", 10 * number + i)
            (root / "labels" / part).mkdir(parents=True, exist_ok=True)
            (root / "labels" / part / f"{i}.txt").write_text(line)
    return root


def build(path: Path, yaml: str = "", **settings):
    if yaml:
        (path / "data.yaml").write_text(yaml + "\nnames: [cat, dog]\n")
    return yolo.build(yolo.Config(str(path), **settings))


def counts(data) -> dict[str, int]:
    return {part: len(split) for part, split in data.splits.items()}


@pytest.mark.parametrize("start", ["./images/", "images/", "{root}/images/", ".\\images\\", "../set/images/"])
def test_lists_of_files(tmp_path, start):
    root = put(tmp_path / "set", "train", "val")
    for part in ("train", "val"):
        names = [start.format(root=root) + f"{part}/{i}.jpg" for i in range(2)]
        (root / f"{part}.txt").write_text("\n".join(["", *names, names[0], start.format(root=root) + "gone.jpg"]))
    data = build(root, "train: train.txt\nval: val.txt")
    assert counts(data) == {"train": 2, "val": 2}
    assert boxes(data.splits["val"], "1.jpg") == [(12, 6, 18, 14, 1)]
    assert any("as they do not exist: 1 image in train.txt" in note for note in data.notes)
    assert "left out, as data.yaml names other folders: 2 images, the first images/train/2.jpg" in data.notes
    assert {"train.txt", "val.txt"} <= {e.name for e in data.entries}
    (root / "train.txt").write_text("/content/a.jpg\n")
    assert "none of its 1 image exists, such as /content/a.jpg" in problem(yolo, root)


def test_absolute_folders_here_and_elsewhere(tmp_path):
    root = put(tmp_path / "set", "train", "val")
    assert counts(build(root, f"train: {root}/images/train\nval: {root}/images/val")) == {"train": 3, "val": 3}
    configs = tmp_path / "configs"
    configs.mkdir()
    data = build(configs, f"train: {root}/images/train\nval: [../set/images/val]")
    assert counts(data) == {"train": 3, "val": 3}
    assert boxes(data.splits["val"], "1.jpg") == [(12, 6, 18, 14, 1)]
    (configs / "data.yaml").write_text("train: /content/images\nnames: [a]\n")
    assert "names /content/images, and there is no such folder" in problem(yolo, configs)


def test_parts_that_are_missing_empty_or_the_same(tmp_path):
    root = put(tmp_path, "train", "val", "test")
    for key in ("val", "valid", "validation", "dev"):
        assert counts(build(root, f"train: images/train\n{key}: images/val")) == {"train": 3, "val": 3}
    data = build(root, "train: images/train\nval: images/valid")
    assert counts(data) == {"train": 2, "val": 1}
    assert "left out, as it does not exist: val: images/valid" in data.notes
    (root / "images" / "none").mkdir()
    data = build(root, "train: images/train\nval: images/none")
    assert "val: images/none holds no images: it is as if it were not there" in data.notes
    data = build(root, "train: images/train\nval: images/train")
    assert counts(data) == {"train": 2, "val": 1}
    assert "in train and in val: 3 images: used as train, of which val is held out at random" in data.notes
    data = build(root, "train: images\nval: images/val\ntest: images/test")
    assert counts(data) == {"train": 3, "val": 3, "test": 3}
    assert not {"images/test/0.jpg", "images/val/0.jpg"} & set(data.splits["train"].names)
    assert counts(build(root, "test: images/test")) == {"test": 3}


def test_counts_and_paths_that_do_not_agree_are_told(tmp_path):
    data = build(put(tmp_path, "train", "val"), "path: /gone\nnc: 3\ntrain: images/train\nval: images/val")
    assert f"path: /gone does not exist: the other paths were taken from {tmp_path}" in data.notes
    assert "data.yaml says nc: 3 and names 2 classes: the names count" in data.notes


def test_label_lines(tmp_path):
    root = put(tmp_path, "train", "val", line="\ufeff1.0 0.5 0.5 0.2 0.4\r\n")
    data = build(root, "train: images/train\nval: images/val")
    assert boxes(data.splits["train"], "1.jpg") == [(12, 6, 18, 14, 1)]
    shutil.rmtree(root / "labels")
    put(root, "train", "val", line="1 0.5 0.5 0.2 0.4 0.1 0.1 2 0.2 0.2 2\n")  # two keypoints of three numbers each
    data = build(root, "train: images/train\nval: images/val\nkpt_shape: [2, 3]")
    assert boxes(data.splits["train"], "1.jpg") == [(12, 6, 18, 14, 1)]
    for label in ("99999999999999999999", "100000", "1_0", "0.5", "٣", "1e0"):
        put(root, "train", "val", line=f"{label} 0.5 0.5 0.2 0.4\n")
        (root / "data.yaml").unlink(missing_ok=True)
        assert "labels/train/0.txt, line 1: " in problem(yolo, root)
