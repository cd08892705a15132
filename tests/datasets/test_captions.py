"""Layouts of images with captions: which images have which, what is left out, and what is said about it."""

import json
import os
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.cli.main import main
from vitrail.data.annotations.captions import clean_caption, clean_captions
from vitrail.data.survey.annotations import survey_annotations
from vitrail.data.survey.assess import broken_annotations
from vitrail.data.survey.images import survey_images
from vitrail.datasets import captions
from vitrail.errors import BadImage, DataError, UsageError
from vitrail.recipe import DataConfig
from vitrail.report.survey.annotations import render


def save_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)


def write(root, **texts):
    for name, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode()
        (root / f"{name}.txt").write_bytes(data)


def look(path, annotations="", **keys):
    return open_data(DataConfig("", {"path": str(path), **keys}), annotations)[0]


def captions_of(dataset):
    return {n: split.annotation(i) for split in dataset.splits.values() for i, n in enumerate(split.names)}


@pytest.fixture
def photos(tmp_path):
    save_images(tmp_path, *(f"{c}.png" for c in "abcdefgh"))
    write(
        tmp_path, a="a cat\r\nun chat \n\n a cat", b="\ufeffein Hund", c="кошка на окне", d="x", e=b"\xff\xfea\x00b\x00"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a \t cat\r\n", "a cat"),
        ("\x00\x07a\x1b[31m cat\x85b\u2028c", "a [31m cat b c"),
        ("", ""),
        (" \n\t\x00", ""),
        ("\ud83d\ude00 \ud800x", "😀 \ufffdx"),
        ("👩\u200d🚀", "👩\u200d🚀"),  # joined by a character that is no control character
        ("a" * 100_000, "a" * 100_000),
        ("\u200b\u200d \ufeff\u202e", ""),  # nothing that can be seen
    ],
)
def test_captions_are_one_line_without_control_characters(text, clean):
    assert clean_caption(text) == clean
    assert clean_captions([text, text, " "]) == ((clean,) if clean else ())


def test_texts_beside_images_are_their_captions(photos):
    dataset = look(photos)
    assert (dataset.layout, dataset.kind, dataset.classes) == ("captions", "captions", ())
    assert captions_of(dataset) == {
        "a.png": ("a cat", "un chat"), "b.png": ("ein Hund",), "c.png": ("кошка на окне",), "d.png": ("x",),
        "e.png": ("ab",),
    }  # fmt: skip
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 4, "val": 1}
    assert "left out, as they have no .txt with a caption: 3 images, the first f.png" in dataset.notes
    assert {entry.name for entry in dataset.entries} == {f"{c}.{end}" for c in "abcde" for end in ("png", "txt")}
    train = dataset.splits["train"].select(np.array([2, 0]))
    assert pickle.loads(pickle.dumps(train)).annotation(0) == train.annotation(0)  # noqa: S301
    assert train.labels.tolist() == [0, 0]
    assert train.annotation(1) == dataset.splits["train"].annotation(0)


def test_what_has_no_caption_is_counted_and_left_out(photos):
    write(photos, d=" \n\t\n", e="", f="\x20", z="of no image")
    (photos / "notes.md").write_text("no caption")
    dataset = look(photos)
    assert sorted(captions_of(dataset)) == ["a.png", "b.png", "c.png"]
    notes = "\n".join(dataset.notes)
    assert "left out, as their .txt has no caption: 3 images, the first d.png" in notes
    assert "left out, as they have no .txt with a caption: 2 images, the first g.png" in notes
    assert "left out, as there is no image of their name: 1 .txt file, the first z.txt" in notes
    assert "1 files that are not images were left out: 1 .md" in notes


def test_parts_are_those_of_the_folders(tmp_path):
    save_images(tmp_path, "train/00/a.png", "train/00/b.png", "val/c.png", "test/d.png")
    for name in ("train/00/a", "train/00/b", "val/c", "test/d"):
        (tmp_path / f"{name}.txt").write_text(name)
    dataset = look(tmp_path)
    assert {part: list(split.names) for part, split in dataset.splits.items()} == {
        "train": ["train/00/a.png", "train/00/b.png"], "val": ["val/c.png"], "test": ["test/d.png"],
    }  # fmt: skip


def test_folders_of_classes_stay_classes_where_a_task_learns_from_them(tmp_path):
    save_images(tmp_path, *(f"{c}/{i}.png" for c in ("ant", "bee") for i in range(5)))
    for c in ("ant", "bee"):
        for i in range(5):
            (tmp_path / c / f"{i}.txt").write_text(f"a small {c}")
    assert look(tmp_path).kind == "captions"
    assert look(tmp_path, "captions").kind == "captions"
    assert any("(ant, bee); --data.annotation classes" in note for note in look(tmp_path).notes)
    dataset = look(tmp_path, "classes")
    assert (dataset.layout, dataset.kind, dataset.classes) == ("imagefolder", "classes", ("ant", "bee"))
    assert all(split.annotation is None for split in dataset.splits.values())


def test_captions_may_be_numbers_and_all_of_the_first_unreadable(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    write(tmp_path, **{str(i): str(i) for i in range(4)})
    assert captions_of(look(tmp_path)) == {f"{i}.png": (str(i),) for i in range(4)}
    write(tmp_path, **{str(i): "café".encode("latin-1") for i in range(4)})
    assert look(tmp_path).kind == "captions"


def test_label_files_and_single_texts_are_no_captions(tmp_path):
    save_images(tmp_path, *(f"{c}/{i}.png" for c in ("ant", "bee") for i in range(4)))
    for c in ("ant", "bee"):
        for i in range(4):
            (tmp_path / c / f"{i}.txt").write_text("0 0.5 0.5 1e-1 0.2\n1 0.1 0.1 0.1 0.1\n")
    assert look(tmp_path).layout == "imagefolder"
    for text in tmp_path.rglob("*.txt"):
        text.unlink()
    (tmp_path / "ant" / "0.txt").write_text("one text alone")
    (tmp_path / "README.txt").write_text("about these images")
    assert look(tmp_path).layout == "imagefolder"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9 au lait", r"a\.txt is not UTF-8 text \(byte 3\)"),
        (b"\xff\xfea", r"a\.txt is not UTF-8 text"),
        (b" \x00" * 99, r"a\.txt has no caption"),
        ("a red car".encode("utf-16-le"), r"a\.txt is not UTF-8 text: more than a quarter of it are control"),
        ("красная машина".encode("utf-16-be"), r"a\.txt is not UTF-8 text: more than a quarter of it are control"),
        (b"0 0.5 0.5 0.2 0.2\n" * 9, r"a\.txt has labels of objects and no caption"),
        (b"x" * (2**20 + 1), r"a\.txt is longer than the 1,048,576 bytes"),
    ],
)
def test_captions_that_cannot_be_read_are_said(photos, data, message):
    write(photos, a=data)
    dataset = look(photos)
    part, number = next((p, i) for p, s in dataset.splits.items() for i, n in enumerate(s.names) if n == "a.png")
    with pytest.raises(BadImage, match=message):
        dataset.splits[part].annotation(number)
    broken = broken_annotations(dataset, survey_images(dataset))
    assert [(bad.split, bad.number, bad.name) for bad in broken] == [(part, number, "a.png")]


def test_a_folder_whose_texts_have_other_names_is_refused_with_the_remedy(tmp_path):
    save_images(tmp_path, "a.png")
    write(tmp_path, b="a cat")
    with pytest.raises(DataError, match=r"1 image, 1 \.txt file, and no two of one name") as error:
        open_data(DataConfig("captions", {"path": str(tmp_path)}))
    assert "photos/cat.txt" in error.value.fix
    write(tmp_path, a=" ")
    with pytest.raises(DataError, match=r"1 image, 2 \.txt files, and no caption in any"):
        open_data(DataConfig("captions", {"path": str(tmp_path)}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    save_images(tmp_path, "a.png", "b.png")
    write(tmp_path, a="a cat".encode(encoding), b="кошка".encode(encoding))
    assert captions_of(look(tmp_path)) == {"a.png": ("a cat",), "b.png": ("кошка",)}


def test_endings_of_any_case_are_captions(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    for i in range(4):
        (tmp_path / f"{i}.TXT").write_text(f"number {i}")
    assert captions_of(look(tmp_path)) == {f"{i}.png": (f"number {i}",) for i in range(4)}


def test_a_text_of_two_endings_is_one_image_with_a_caption(tmp_path):
    """As everywhere on a file system that takes .txt and .TXT for the same."""
    save_images(tmp_path, *(f"{i}.png" for i in range(3)))
    for ending in ("txt", "TXT"):
        (tmp_path / f"0.{ending}").write_text("a cat on a mat")
    assert not captions.matches(str(tmp_path))


def test_label_files_among_captions_are_left_out(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    write(tmp_path, **{str(i): "0 0.5 0.5 0.2 0.2" if i == 2 else f"number {i}" for i in range(4)})
    dataset = look(tmp_path)
    assert sorted(captions_of(dataset)) == ["0.png", "1.png", "3.png"]
    assert "left out, as their .txt has no caption: 1 image, the first 2.png" in dataset.notes


def test_where_no_caption_can_be_read_the_images_are_not_blamed(tmp_path, capsys):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    write(tmp_path, **{str(i): f"Übergröße {i}".encode("latin-1") for i in range(4)})
    assert main(["check", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert "0.txt is not UTF-8 text (byte 0)" in out
    assert "it is their captions, not the images" in out


def test_tasks_without_captions_use_all_images_of_a_folder(tmp_path):
    save_images(tmp_path, *(f"train/{i}.png" for i in range(6)), "val/6.png")
    for i in range(5):
        (tmp_path / "train" / f"{i}.txt").write_bytes(b"caf\xe9" if i else b"a cafe")
    assert sum(map(len, look(tmp_path).splits.values())) == 5
    dataset = look(tmp_path, "none")
    assert (dataset.layout, dataset.kind, dataset.is_annotated) == ("captions", "none", False)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 6, "val": 1}
    assert not broken_annotations(dataset, survey_images(dataset))
    assert "the texts beside the images are not read" in dataset.notes


def test_a_task_of_captions_says_how_data_gets_them(tmp_path, capsys):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    assert main(["train", "--data", str(tmp_path), "--task", "contrastive", "--out", str(tmp_path / "run")]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "put a .txt with the caption beside each image (--data.name captions, where few have one), or --task" in err


def test_the_survey_counts_captions_and_says_what_is_wrong_with_them(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(30)))
    for i in range(30):
        write(tmp_path, **{str(i): "a photo\nnumber " + str(i) if i < 20 else f"{i} " + "word " * 100})
    write(tmp_path, **{"3": b"\xff"})
    dataset = look(tmp_path, split=(0.5, 0.5))
    survey = survey_annotations(dataset)
    captions = survey.captions
    assert captions.counts["train"] + captions.counts["val"] == 48
    assert captions.images == 29
    assert (captions.distinct, captions.shared, captions.per_image) == (30, 0, (1, 2))
    assert captions.frequent == (("a photo", 19),)
    assert captions.lengths[::2] == (7, 502)
    text = "\n".join(render(dataset, survey))
    for sentence in (
        "captions        ", "per image       1-2", "characters      7-502, median 8", "different       30 of 48",
        "  19  'a photo'", "one caption on many images: 'a photo' on 19 of 29",
        "of more than 400 characters: 10 captions, the first of", "not usable: the captions of 1 image",
        "3.png: 3.txt is not UTF-8 text (byte 0)",
    ):  # fmt: skip
        assert sentence in text


def test_a_survey_of_equal_or_unreadable_captions_says_so(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(4)))
    write(tmp_path, **{str(i): "The Same" if i % 2 else "the same" for i in range(4)})
    assert "all captions are the same" in "\n".join(render(look(tmp_path), survey_annotations(look(tmp_path))))
    write(tmp_path, **{str(i): b"\xff" * 100 for i in range(4)})
    dataset = open_data(DataConfig("captions", {"path": str(tmp_path)}))[0]
    assert "not usable: the captions of 4 images" in "\n".join(render(dataset, survey_annotations(dataset)))


def test_an_unreadable_folder_is_none_of_captions(tmp_path):
    from vitrail.datasets import captions

    assert not captions.matches(str(tmp_path / "none"))
    assert not captions.matches(str(tmp_path))
    os.makedirs(tmp_path / "empty" / "deep")
    assert not captions.matches(str(tmp_path))


TABLES = {
    "a.csv": 'image,caption\na.png,a cat\nb.png,"a dog, running"\nc.png,[a bird]\n',
    "unquoted.csv": "image,caption\na.png,a cat\nb.png,a dog, running\nc.png,[a bird]\n",
    "captions.txt": "image,caption\na.png,a cat\na.png,un chat\na.png,a cat\nb.png,a dog\nc.png, \n",  # Flickr8k
    "results.csv": "image_name| comment_number| comment\na.png| 0| a cat\na.png| 1| un chat\nb.png| 0| a dog\n",  # 30k
    "a.tsv": "filepath\ttitle\na.png\ta cat\nb.png\ta dog\n",  # open_clip
    "metadata.jsonl": '{"file_name": "a.png", "text": "a cat"}\n\n{"file_name": "b.png", "text": "a dog"}\n',
    "lists.jsonl": '{"image": "a.png", "captions": ["a cat", "un chat"]}\n'
    '{"image": "b.png", "captions": ["a dog", null]}\n'
    '{"image": "b.png", "captions": []}\n{"image": "c.png", "captions": []}\n',
    "several.csv": 'image,caption_1,caption_2\na.png,a cat,"[""un chat"", ""eine Katze""]"\nb.png,a dog,\nc.png,,\n',
    "languages.ndjson": '{"image": "a.png", "caption_en": "a cat", "caption_ru": "кот"}\n'
    '{"image": "b.png", "caption_en": "x"}',
}
FOUND = {
    "a.csv": {"a.png": ("a cat",), "b.png": ("a dog, running",), "c.png": ("[a bird]",)},
    "unquoted.csv": {"a.png": ("a cat",), "b.png": ("a dog, running",), "c.png": ("[a bird]",)},
    "captions.txt": {"a.png": ("a cat", "un chat"), "b.png": ("a dog",)},
    "results.csv": {"a.png": ("a cat", "un chat"), "b.png": ("a dog",)},
    "a.tsv": {"a.png": ("a cat",), "b.png": ("a dog",)},
    "metadata.jsonl": {"a.png": ("a cat",), "b.png": ("a dog",)},
    "lists.jsonl": {"a.png": ("a cat", "un chat"), "b.png": ("a dog",)},
    "several.csv": {"a.png": ("a cat", "un chat", "eine Katze"), "b.png": ("a dog",)},
    "languages.ndjson": {"a.png": ("a cat", "кот"), "b.png": ("x",)},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_captions_in_one_or_more_columns_and_lines(tmp_path, name):
    save_images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / name).write_text(TABLES[name])
    dataset = look(tmp_path / name)
    assert (dataset.layout, dataset.kind, dataset.classes) == ("table", "captions", ())
    assert captions_of(dataset) == FOUND[name]
    assert any("have no caption: 1 image, the first c.png" in note for note in dataset.notes) == (
        name in ("captions.txt", "lists.jsonl", "several.csv")
    )


def test_a_table_with_labels_and_captions_is_read_for_what_is_learned(tmp_path):
    save_images(tmp_path, *(f"{i}.png" for i in range(6)))
    lines = [f"{i}.png,{'cat' if i % 2 else 'dog'},a photo of number {i},train" for i in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["image,label,caption,split", *lines]))
    assert look(tmp_path / "a.csv").kind == "classes"
    assert look(tmp_path / "a.csv", caption_column=("caption",)).kind == "captions"
    dataset = look(tmp_path / "a.csv", "captions", held_out=0.0)
    assert captions_of(dataset) == {f"{i}.png": (f"a photo of number {i}",) for i in range(6)}
    assert "columns that are not read: label" in dataset.notes
    labels = [json.dumps({"image": f"{i}.png", "labels": ["cat"] if i % 2 else ["cat", "dog"]}) for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(labels))
    dataset = look(tmp_path / "a.jsonl", held_out=0.0)
    assert (dataset.kind, dataset.classes, dataset.multi_label) == ("classes", ("cat", "dog"), True)
    assert dataset.splits["train"].labels.tolist() == [[1, 1], [1, 0]] * 3


def test_a_folder_may_have_its_table_in_it(tmp_path):
    """As data sets of the hub: metadata.jsonl beside the images, or above folders of them."""
    save_images(tmp_path, *(f"{c}/{i}.png" for c in ("ant", "bee") for i in range(5)))
    rows = [{"file_name": f"{c}/{i}.png", "text": f"a {c}"} for c in ("ant", "bee") for i in range(5)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = look(tmp_path)
    assert (dataset.layout, dataset.kind, len(captions_of(dataset))) == ("table", "captions", 10)
    dataset = look(tmp_path, "classes")
    assert (dataset.layout, dataset.classes) == ("imagefolder", ("ant", "bee"))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "ant/0.png", "width": 9}))
    assert look(tmp_path).layout == "imagefolder"
    (tmp_path / "metadata.jsonl").unlink()
    for name, text in {"captions.txt": "image,caption\nant/0.png,an ant\nbee/1.png,a bee\n"}.items():
        (tmp_path / name).write_text(text)
        assert captions_of(look(tmp_path)) == {"ant/0.png": ("an ant",), "bee/1.png": ("a bee",)}


@pytest.mark.parametrize(
    ("name", "text", "keys", "message"),
    [
        ("a.jsonl", '{"image": "a.png", "caption": "x"}\n{"image": ', {}, "line 2: no JSON"),
        ("a.jsonl", '["a.png", "x"]', {}, "line 1: a list and no object"),
        ("a.jsonl", "\n \n", {}, "has no images"),
        ("a.jsonl", '{"image": "a.png", "caption": 5}\n' + "[" * 100_000, {}, "line 2: no JSON"),
        ("a.jsonl", '{"image": "a.png", "caption": {"en": "x"}}', {}, "line 1: the caption is an object"),
        ("a.jsonl", '{"image": "a.png", "caption": true}', {}, "line 1: the caption is true"),
        ("a.jsonl", '{"image": "a.png", "caption": ["x", ["y"]]}', {}, "the caption is a list of other things than"),
        ("a.jsonl", '{"image": "a.png", "caption": NaN}', {}, "no image has a caption: caption is empty"),
        ("a.csv", "image,caption\na.png,\n", {}, "no image has a caption: caption is empty in all lines"),
        ("a.csv", 'image,caption\na.png,x\na.png,"y\na.png,z\n', {}, "line 3: a quote is not closed"),
        ("a.csv", 'image,caption\na.png,"y\na.png,z\n', {}, "line 2: a quote is not closed"),
        ("a.csv", "image,caption\na.png," + "x" * 140_000, {}, "line 2: a cell has more than 131,072 characters"),
        ("a.csv", "photo,words\na.png,x\n", {}, "line 1: no column path or file"),
        ("a.csv", "image,note\na.png,x\n", {"annotation": "captions"}, "no column caption or captions or text"),
        ("a.csv", "image,caption\na.png,x\n", {"annotation": "classes"}, "no column label or class"),
        ("a.csv", "image,caption\na.png,x\n", {"caption_column": ("captoin",)}, "no column captoin"),
        ("a.csv", "image,caption,split\na.png,x,train\na.png,y,val\n", {}, "line 3: a.png is val, in line 2 train"),
        ("a.csv", "image,caption\nz.png,x\n", {}, "line 2: z.png does not exist"),
        ("a.csv", b"image,caption\na.png,caf\xe9\n", {}, "line 2: not UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_with_their_line(tmp_path, name, text, keys, message):
    save_images(tmp_path, "a.png")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=re.escape(message)) as error:
        look(tmp_path / name, **keys)
    assert error.value.fix


def test_quotes_that_close_or_stand_inside_are_no_fault(tmp_path):
    save_images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.csv").write_text('image,caption\na.png,a 5" nail\nb.png,"so ""called"""\nc.png,"two\nlines"\n\n')
    assert captions_of(look(tmp_path / "a.csv")) == {
        "a.png": ('a 5" nail',), "b.png": ('so "called"',), "c.png": ("two lines",),
    }  # fmt: skip


def test_a_table_of_labels_names_its_captions(tmp_path):
    save_images(tmp_path, "a.png", "b.png")
    (tmp_path / "a.csv").write_text("image,label,caption\na.png,x,a cat\nb.png,y,a dog\n")
    note = "the labels were read; --data.annotation captions reads the captions"
    assert note in look(tmp_path / "a.csv").notes
    assert note not in look(tmp_path / "a.csv", "classes").notes


def write_coco(path, captions, boxes=()):
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    path.parent.mkdir(exist_ok=True)
    items = [{"id": 9 + i, "image_id": i % 4, "caption": text} for i, text in enumerate(captions)]
    items += [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    whole = {"info": {}, "images": images, "licenses": [], "annotations": items}
    path.write_text(json.dumps(whole | ({"categories": [{"id": 1, "name": "cat"}]} if boxes else {})))


def test_coco_has_captions_in_files_of_their_own(tmp_path):
    save_images(tmp_path, *(f"{part}2017/{i}.png" for part in ("train", "val") for i in range(4)))
    for part in ("train", "val"):
        write_coco(tmp_path / "annotations" / f"captions_{part}2017.json", ["a cat", "A dog.\n", " ", "x", "un chat"])
    dataset = look(tmp_path)
    assert (dataset.layout, dataset.kind, dataset.classes) == ("coco", "captions", ())
    assert captions_of(dataset) == {
        f"{part}2017/{i}.png": own
        for part in ("train", "val")
        for i, own in ((0, ("a cat", "un chat")), (1, ("A dog.",)), (3, ("x",)))
    }
    assert "left out, as they have no caption: 2 images, the first train2017/2.png" in dataset.notes
    for part in ("train", "val"):
        write_coco(tmp_path / "annotations" / f"instances_{part}2017.json", [], [[1, 1, 5, 5]] * 4)
    assert look(tmp_path).kind == "boxes"
    assert captions_of(look(tmp_path, "captions")) == captions_of(dataset)
    one = tmp_path / "annotations" / "captions_val2017.json"
    assert look(one, split=(0.5, 0.5)).kind == "captions"
    with pytest.raises(DataError, match=r"annotations\[0\] is .*") as error:
        look(one.with_name("instances_val2017.json"), "captions")
    assert "it has no caption; COCO's are in captions_train2017.json" in error.value.fix
    write_coco(one, [None, 5])
    with pytest.raises(DataError, match=r"annotations\[0\] is .*") as error:
        look(one)
    assert error.value.fix == "its caption is null, not a text"
    write_coco(one, ["a cat"])
    with pytest.raises(UsageError, match=r"data\.tile works with boxes only"):
        look(one, "captions", tile=64)


def test_captions_are_the_same_in_shards_also_when_their_index_is_made_again(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert main(["pack", str(photos), "--out", str(out)]) in (0, None)
    theirs = captions_of(look(photos))
    for again in (False, True):
        if again:
            assert main(["pack", str(out)]) in (0, None)
        ours = look(out)
        assert (ours.layout, ours.kind, ours.classes) == ("shards", "captions", ())
        assert captions_of(ours) == theirs
        assert {part: len(split) for part, split in ours.splits.items()} == {"train": 4, "val": 1}
    with tarfile.open(next(out.glob("train*.tar"))) as shard:
        assert not [name for name in shard.getnames() if name.endswith(".cls")]
    with pytest.raises(DataError, match="have captions and no classes"):
        look(out, "classes")
