"""`vitrail eval --data`: all of what is given, mapped by class names, read as the run reads its own, and said so."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vitrail.cli.main import main

TINY = "--model vit/nano --model.depth 1 --model.width 32 --model.heads 2 --img-size 16 --batch-size 4 --steps 1 "
TINY += "--train.eval-every 0 --precision fp32 --device cpu --workers 0 --quiet"
BOXES = "--model resnet/18 --model.width 8 --img-size 32 --batch-size 4 --steps 1 --task.queries 4 --task.width 16 "
BOXES += "--task.heads 2 --task.decoder 1 --train.eval-every 0 --precision fp32 --device cpu --workers 0 --quiet"
MASKS = "--model resnet/18 --model.width 8 --img-size 32 --batch-size 4 --steps 1 --train.eval-every 0 "
MASKS += "--precision fp32 --device cpu --workers 0 --quiet"


def pixels(path, seed, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(path)


def folder(root, classes, each, seed=0):
    for k, name in enumerate(classes):
        for i in range(each):
            pixels(root / name / f"{i}.png", seed + 100 * k + i, 16)
    return root


def coco(root, names, each=8, file="annotations.json"):
    """Image i has one object, of the class with id 1 + i % len(names)."""
    images = [{"id": i + 1, "file_name": f"{i}.jpg", "height": 32, "width": 32} for i in range(each)]
    objects = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1 + i % len(names), "bbox": [3, 4, 10, 12], "iscrowd": 0}
        for i in range(each)
    ]
    for i in range(each):
        pixels(root / f"{i}.jpg", i)
    whole = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(whole))
    return root


def masks(root, values, each=6):
    for i in range(each):
        pixels(root / "images" / f"{i}.png", i)
        rows = np.repeat(np.array(values, np.uint8), -(-32 // len(values)))[:32, None].repeat(32, 1)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.roll(rows, i, 0)).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four runs of a step or two: of four classes in folders, of a table with odd columns, of boxes, of masks."""
    place = tmp_path_factory.mktemp("given")
    folder(place / "data", "abcd", 5)
    coco(place / "coco", ("cat", "dog"))
    masks(place / "masks", (0, 1, 2))
    for i in range(8):
        pixels(place / f"{i}.png", i, 16)
    lines = "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(8))
    (place / "table.csv").write_text("pic,kind\n" + lines)
    must("train", "--data", place / "data", "--out", place / "run", *TINY.split())
    keys = ("--data.image-column", "pic", "--data.label-column", "kind")
    must("train", "--data", place / "table.csv", *keys, "--out", place / "rows", *TINY.split())
    must("train", "--data", place / "coco", "--task", "detection", "--out", place / "boxes", *BOXES.split())
    must("train", "--data", place / "masks", "--data.zero", "ignore", "--out", place / "maps", *MASKS.split())
    return place


def must(*words):
    assert main([str(word) for word in words]) == 0, words


def evaluated(capsys, *words):
    """What `vitrail eval --json` says."""
    capsys.readouterr()
    must("eval", *words, "--json", "--device", "cpu")
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *words):
    capsys.readouterr()
    code = main(["eval", *map(str, words), "--device", "cpu"])
    assert code in (2, 3), code
    return " ".join(capsys.readouterr().err.split())


def test_a_folder_without_parts_is_evaluated_whole(place, capsys):
    new = folder(place / "new", "abcd", 3, seed=900)
    found = evaluated(capsys, place / "run", "--data", new)
    assert (found["part"], found["count"]) == ("all", 12)
    assert found["evaluated"] == f"evaluated 12 images, all of {new}; 4 classes: a, b, c, d"
    assert found["classes"] == ["a", "b", "c", "d"]
    assert sum(map(sum, found["confusion"])) == 12
    must("eval", place / "run", "--data", new, "--device", "cpu")
    out = capsys.readouterr().out
    assert found["evaluated"] in " ".join(out.split())
    assert "confusion matrix: rows are labels, columns predictions" in out
    assert "95 % interval" in out


@pytest.mark.parametrize("parts", [("test",), ("val",), ("train", "test"), ("train", "val", "test"), ("train", "val")])
def test_parts_are_those_that_the_data_names(parts, place, tmp_path, capsys):
    """Test if there is one, else val; nothing is split; --split chooses."""
    for k, part in enumerate(parts):
        folder(tmp_path / "e" / part, "abcd", 2 + k, seed=1000 * k)
    part = next(name for name in ("test", "val") if name in parts)
    found = evaluated(capsys, place / "run", "--data", tmp_path / "e")
    assert (found["part"], found["count"]) == (part, 4 * (2 + parts.index(part)))
    assert f"the {part} part of" in found["evaluated"]
    whole = evaluated(capsys, place / "run", "--data", tmp_path / "e", "--split", "all")
    assert whole["count"] == sum(4 * (2 + k) for k in range(len(parts)))
    if "train" in parts:
        assert "(not its 8 train" in found["evaluated"]
        assert evaluated(capsys, place / "run", "--data", tmp_path / "e", "--split", "train")["count"] == 8
    else:
        assert "--split all takes all of them" in refused(
            capsys, place / "run", "--data", tmp_path / "e", "--split", "train"
        )


def test_a_table_with_a_test_part_only(place, tmp_path, capsys):
    folder(tmp_path / "e", "abcd", 2)
    rows = "".join(f"e/{name}/{i}.png,{name},test\n" for name in "abcd" for i in range(2))
    (tmp_path / "t.csv").write_text("path,label,split\n" + rows)
    found = evaluated(capsys, place / "run", "--data", tmp_path / "t.csv")
    assert (found["part"], found["count"]) == ("test", 8)


def test_some_classes_in_any_order_are_matched_by_name(place, tmp_path, capsys):
    found = evaluated(capsys, place / "run", "--data", folder(tmp_path / "e", "db", 3))
    assert found["per_class"]["count"] == [0, 3, 0, 3]
    assert found["data_classes"] == ["b", "d"]
    assert "2 of the model's 4 classes: b, d (no a, c)" in found["evaluated"]
    one = evaluated(capsys, place / "run", "--data", folder(tmp_path / "one" / "test", "c", 3).parent)
    assert one["per_class"]["count"] == [0, 0, 3, 0]


def test_unknown_classes_are_an_error_that_names_the_way_out(place, tmp_path, capsys):
    data = folder(tmp_path / "e", ("a", "b", "zebra"), 3)
    text = refused(capsys, place / "run", "--data", data)
    assert "the model does not know 'zebra'; it was trained on 'a', 'b', 'c', 'd'" in text
    assert "--skip-unknown" in text
    found = evaluated(capsys, place / "run", "--data", data, "--skip-unknown")
    assert found["count"] == 6
    assert found["excluded"] == "3 images of 1 class that the model does not know: zebra"
    assert "left out: 3 images" in found["evaluated"]
    none = refused(capsys, place / "run", "--data", folder(tmp_path / "none", ("y", "z"), 3), "--skip-unknown")
    assert "does not know 'y', 'z'" in none


def test_other_data_is_read_as_the_run_reads_its_own(place, tmp_path, capsys):
    text = (place / "table.csv").read_text()
    (place / "other.csv").write_text(text)
    assert evaluated(capsys, place / "rows", "--data", place / "other.csv")["count"] == 8
    (place / "renamed.csv").write_text(text.replace("kind", "sort"))
    assert "kind" in refused(capsys, place / "rows", "--data", place / "renamed.csv")
    keys = ("--data.label-column", "sort")
    assert evaluated(capsys, place / "rows", "--data", place / "renamed.csv", *keys)["count"] == 8
    assert "--data FOLDER" in refused(capsys, place / "rows", *keys)
    found = evaluated(capsys, place / "maps", "--data", masks(tmp_path / "m", (0, 1, 2)))
    assert found["count"] == 6
    assert found["classes"] == ["1", "2"], "zero is ignored, as in the run"


def test_masks_with_some_of_the_classes(place, tmp_path, capsys):
    found = evaluated(capsys, place / "maps", "--data", masks(tmp_path / "m", (0, 2)), "--data.zero", "keep",
                      "--skip-unknown")  # fmt: skip
    assert found["per_class"]["pixels"][0] == 0
    assert found["per_class"]["pixels"][1] > 0
    assert " pixels of 1 class that the model does not know: 0" in found["excluded"]


def test_boxes_in_another_order_of_categories(place, tmp_path, capsys):
    found = evaluated(
        capsys, place / "boxes", "--data", coco(tmp_path / "o", ("dog", "cat", "cow"), 8), "--skip-unknown"
    )
    assert found["per_class"]["objects"] == [3, 3], "cats 2, 5, 8 and dogs 1, 4, 7"
    assert found["excluded"] == "2 objects of 1 class that the model does not know: cow"
    test = coco(tmp_path / "t", ("cat", "dog"), 8, "annotations/instances_test.json")
    found = evaluated(capsys, place / "boxes", "--data", test)
    assert (found["part"], found["count"]) == ("test", 8)


def test_images_that_were_trained_on_are_told(place, tmp_path, capsys):
    shutil.copytree(place / "data", tmp_path / "moved", copy_function=shutil.copy2)
    found = evaluated(capsys, place / "run", "--data", tmp_path / "moved")
    assert (found["count"], found["trained_on"]) == (20, 16)
    assert "the model was trained on 16 of them" in found["evaluated"]
    assert "the model was trained on them" in evaluated(capsys, place / "run", "--split", "train")["evaluated"]
    assert evaluated(capsys, place / "run")["trained_on"] == 0


def test_a_line_an_image(place, tmp_path, capsys):
    data = folder(tmp_path / "e", "ab", 3)
    found = evaluated(capsys, place / "run", "--data", data, "--csv", tmp_path / "rows.csv")
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == [f"{name}/{i}.png" for name in "ab" for i in range(3)]
    assert [row["label"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert sum(int(row["correct"]) for row in rows) == round(found["top1"] * 6)
    assert all((row["label"] == row["prediction"]) == (row["correct"] == "1") for row in rows)
    assert "never overwritten" in refused(capsys, place / "run", "--data", data, "--csv", tmp_path / "rows.csv")
    evaluated(capsys, place / "maps", "--csv", tmp_path / "maps.csv")
    assert (tmp_path / "maps.csv").read_text().splitlines()[0] == "image,scores"


def test_images_that_cannot_be_read_are_left_out_and_counted(place, tmp_path, capsys):
    data = folder(tmp_path / "e", "ab", 15)
    (data / "a" / "0.png").write_bytes(b"no image")
    found = evaluated(capsys, place / "run", "--data", data)
    assert found["count"] == 29
    assert found["excluded"].startswith("1 image that cannot be read, the first: ")
    assert "a/0.png" in refused(capsys, place / "run", "--data", data, "--data.on-error", "fail")
    for i in range(1, 4):
        (data / "a" / f"{i}.png").write_bytes(b"no image")
    refused(capsys, place / "run", "--data", data)  # more than 5 %


def test_masks_at_another_size_are_evaluated_at_that_size(place, capsys):
    own, other = (evaluated(capsys, place / "maps", *words) for words in ((), ("--img-size", "64", "64")))
    assert own["per_class"]["pixels"] == other["per_class"]["pixels"]
    assert own["per_class"]["iou"] != other["per_class"]["iou"]
