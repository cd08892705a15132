"""The survey names every damaged file, counts every copy, and its figures are those of the pixels."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.survey import one_image
from vitrail.data.survey.advice import advise
from vitrail.data.survey.assess import assess
from vitrail.data.survey.images import survey_images
from vitrail.datasets import imagefolder, mini
from vitrail.errors import BadImage
from vitrail.report.survey.images import render


def noise(seed, height=12, width=16, channels=3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def folder(root: Path, train=10, val=4) -> Dataset:
    for part, n, base in (("train", train, 0), ("val", val, 500)):
        for k, name in enumerate(("cat", "dog")):
            for i in range(n):
                put(root / part / name / f"{i}.png", noise(base + 100 * k + i))
    return look(root)


def look(root: Path) -> Dataset:
    return imagefolder.build(imagefolder.Config(str(root)))


def test_a_sound_folder(tmp_path):
    seen: list[tuple[int, int]] = []
    found = survey_images(folder(tmp_path), lambda done, total: seen.append((done, total)), threads=2)
    assert found.counts == {"train": (10, 10), "val": (4, 4)}
    assert (found.sizes.height, found.sizes.width, found.sizes.distinct) == ((12, 12, 12), (16, 16, 16), 1)
    assert (found.channels, found.bits, found.animated, found.imbalance) == ({3: 28}, {8: 28}, 0, 1.0)
    assert not any(
        [found.corrupt, found.copies, found.conflicts, found.slender, found.tiny, found.repeated, found.shared]
    )
    pixels = np.stack([noise(100 * k + i) for k in range(2) for i in range(10)]) / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), atol=1e-12)
    assert seen[-1] == (28, 28)
    assert found == survey_images(look(tmp_path), threads=1)
    assert advise(found) == ["fewer than 20 training images: 2 classes; start from pre-trained weights, or add images"]
    assert advise(found, has_weights=True) == ["fewer than 20 training images: 2 classes; add images"]


def test_every_planted_bad_file_is_named_and_no_good_one(tmp_path):
    folder(tmp_path, train=50, val=50)
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 40, 40)).save(buffer, "JPEG")
    good = buffer.getvalue()
    kinds = [
        b"",
        b"<html>404</html>",
        good[: len(good) // 100],
        good[: len(good) // 4],
        good[: len(good) // 2],
        good[: len(good) * 99 // 100],
    ]
    kinds += [b"%PDF-1.7", b"<svg/>", b"\0" * 99, good[:2] + bytes(len(good))]
    planted = set()
    for i in range(40):
        path = f"{'train' if i % 2 else 'val'}/{'cat' if i % 3 else 'dog'}/bad{i}.jpg"
        (tmp_path / path).write_bytes(kinds[i % 10])
        planted.add(path)
    data = look(tmp_path)
    found = survey_images(data)
    assert {bad.name for bad in found.corrupt} == planted
    for bad in found.corrupt:
        assert data.splits[bad.split].names[bad.number] == bad.name
        assert bad.reason
        with pytest.raises(BadImage):
            data.splits[bad.split].read(bad.number)
    assert sum(found.channels.values()) == 200
    said = assess(data, found, (), "skip", 0.2).notes[0]
    assert said.startswith("not readable: 40 images (16.67%): train/cat/bad1.jpg is ")
    assert said.endswith("; and 35 more; left out when you train with --data.on-error skip")
    lines = render(data, found)
    assert sum(": is " in line for line in lines) == 20
    assert "  and 20 more" in lines


def test_copies_are_counted_exactly(tmp_path):
    folder(tmp_path)
    for i in range(3):
        put(tmp_path / "val" / "cat" / f"leak{i}.png", noise(i))  # bytes of train/cat/i.png
    put(tmp_path / "val" / "dog" / "leak.png", noise(3))  # of a training cat: another label
    put(tmp_path / "train" / "dog" / "again.png", noise(100))
    found = survey_images(look(tmp_path))
    assert found.shared == {("train", "val"): 4}
    assert found.repeated == {"train": 1}
    assert len(found.copies) == 5
    assert [{w.name for w in group} for group in found.conflicts] == [{"train/cat/3.png", "val/dog/leak.png"}]
    said = "\n".join(advise(found))
    assert "both in train and in val: 4 images of val" in said
    assert "twice in train: 1 image;" in said
    assert "equal but labelled differently: 1 group" in said


def test_odd_images(tmp_path):
    folder(tmp_path, train=3)
    put(tmp_path / "train" / "dog" / "long.png", noise(900, 10, 101))
    put(tmp_path / "train" / "dog" / "small.png", noise(901, 7, 7))
    put(tmp_path / "train" / "cat" / "grey.png", noise(902)[..., 0])
    Image.fromarray(noise(903)[..., 0].astype(np.uint16) * 257).save(tmp_path / "train" / "cat" / "deep.png")
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    frames[0].save(tmp_path / "train" / "cat" / "film.gif", save_all=True, append_images=frames[1:])
    found = survey_images(look(tmp_path))
    assert [w.name for w in found.slender] == ["train/dog/long.png"]
    assert [w.name for w in found.tiny] == ["train/dog/small.png"]
    assert (found.animated, found.channels, found.bits) == (1, {1: 2, 3: 17}, {8: 18, 16: 1})
    assert (found.sizes.height, found.sizes.width, found.sizes.distinct) == ((7, 12, 12), (7, 16, 101), 3)
    assert len(advise(found)) == 4


def test_content_is_that_of_names_labels_and_bytes(tmp_path):
    one = survey_images(folder(tmp_path)).content
    (tmp_path / "train" / "cat" / "0.png").touch()
    assert survey_images(look(tmp_path)).content == one
    put(tmp_path / "train" / "cat" / "0.png", noise(77))
    two = survey_images(look(tmp_path)).content
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "cat" / "z.png")
    assert len({one, two, survey_images(look(tmp_path)).content}) == 3


def arrays(labels, pixels=None, **more) -> Dataset:
    labels = np.asarray(labels)
    pixels = np.stack([noise(i, 9, 9, 2) for i in range(len(labels))]) if pixels is None else pixels
    names = [f"train/{i}" for i in range(len(labels))]
    return Dataset("npz", ("a", "b", "c"), {"train": Split(names, labels, ArrayReader(pixels))}, 2)


def test_arrays_are_measured_exactly():
    data = arrays(np.arange(5000) % 3)
    found = survey_images(data)
    pixels = data.splits["train"].array / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), atol=1e-12)
    assert (found.sizes.distinct, found.channels, found.images) == (1, {2: 5000}, {"train": 5000})
    assert advise(found) == []


def test_balance():
    assert survey_images(arrays([0] * 44 + [1] * 4 + [2] * 8)).imbalance == 11
    assert any("11 times" in x for x in advise(survey_images(arrays([0] * 44 + [1] * 4 + [2] * 8))))
    assert any("without training images: 1 class;" in x for x in advise(survey_images(arrays([0, 1]))))
    assert any("one class" in x for x in advise(survey_images(arrays([1, 1]))))


def test_several_labels():
    found = survey_images(
        arrays(np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]], np.uint8), np.zeros((3, 9, 9, 2), np.uint8))
    )
    assert found.counts["train"] == (1, 3, 1)
    assert (len(found.copies), len(found.conflicts)) == (1, 1)


def test_other_readers_and_failures_of_theirs(tmp_path):
    def read(index):
        if index == 1:
            raise BadImage("train/1 is truncated", "remove it")
        return noise(index)

    data = Dataset("own", ("a", "b"), {"train": Split(["train/0", "train/1", "train/2"], np.array([0, 1, 1]), read)}, 3)
    found = survey_images(data)
    assert found.corrupt == (("train", 1, "train/1", "is truncated"),)
    taken = folder(tmp_path)
    (tmp_path / "train" / "cat" / "3.png").write_bytes(b"")
    part = Dataset("x", taken.classes, {"train": taken.splits["train"].select(np.array([5, 3]))}, 3)
    assert survey_images(part).corrupt == (("train", 1, "train/cat/3.png", "is empty"),)
    gone = look(tmp_path)
    (tmp_path / "train" / "cat" / "5.png").unlink()
    assert [(b.name, b.reason) for b in survey_images(gone).corrupt][1] == (
        "train/cat/5.png",
        "cannot be read: no such file or directory",
    )


def test_render_says_what_is_there():
    data = mini.build(mini.Config())
    lines = render(data, survey_images(data))
    assert lines[0] == "images          10,000 train, 2,000 test"
    assert "height x width  28 x 28" in lines
    assert len({len(line) for line in lines[8:18]}) == 1
    assert max(map(len, lines)) < 120
    json.dumps(lines)


@pytest.mark.parametrize("shape", [(7, 1, 1, 3), (40, 32, 32, 3), (3, 700, 9, 4), (2, 300, 500, 1), (1, 2, 70_000, 3)])
def test_sums_are_exact(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels[..., 0] = 255
    means, squares = one_image.mean_and_square(pixels)
    area = shape[1] * shape[2]
    assert (means == pixels.sum((1, 2), dtype=np.uint64) / (area * 255)).all()
    assert (squares == (pixels.astype(np.uint64) ** 2).sum((1, 2)) / (area * 255**2)).all()
    counts = np.stack([np.bincount(pixels[0, ..., c].ravel(), minlength=256) for c in range(shape[3])])
    mean, square = one_image.mean_and_square_of_levels(counts)
    assert (mean == means[0]).all()
    assert (square == squares[0]).all()
