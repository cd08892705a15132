"""Shards: packed, read by offset, the same batches as from the folder; and shards that nobody should have written."""

import bz2
import gc
import gzip
import io
import json
import lzma
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.assembly.opening.packing import index_shards, pack_data
from vitrail.cli.main import main
from vitrail.data.files import FileReader
from vitrail.data.index.arrays import encode_arrays, map_arrays
from vitrail.data.loader import Fetcher, TrainRequests, load_batches
from vitrail.data.sampling import SampleStream, windowed_order
from vitrail.data.shards.index import NAME
from vitrail.data.shards.write import find_encoded
from vitrail.data.survey.images import survey_images
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage, DataError, UsageError
from vitrail.recipe import DataConfig

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
AUGMENT = Augmentation(Preprocess((12, 12), 3, (0.5,) * 3, (0.5,) * 3, "stretch", 1.0), 3, crop="random", hflip=True)


def look(path):
    return open_data(DataConfig("", {"path": str(path)}))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of two classes, JPEG and PNG, two with a caption, one of which cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 14), ("val", 5)):
        for k, name in enumerate(("ant", "bee ö")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(50 * k + i).integers(0, 256, (16 + i, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.{'png' if i % 3 else 'JPG'}", quality=90)
    for i in (0, 3):
        (root / "train" / "ant" / f"{i}.txt").write_text(f"an ant, number {i}, größer")
    return root


@pytest.fixture(scope="module")
def packed(folder):
    out = folder.parent / "shards"
    pack_data(DataConfig("", {"path": str(folder)}), out, 20_000)
    return out


def test_what_is_packed_is_what_was_there(folder, packed):
    theirs, ours = look(folder), look(packed)
    assert (ours.layout, ours.origin) == ("shards", "imagefolder")
    assert (ours.classes, ours.channels, ours.kind) == (theirs.classes, theirs.channels, theirs.kind)
    assert len(list(packed.glob("*.tar"))) == len(ours.entries) > 3
    for part, split in theirs.splits.items():
        own = ours.splits[part]
        assert list(own.names) == list(split.names)
        np.testing.assert_array_equal(own.labels, split.labels)
        for i in range(len(split)):
            assert own.read.encoded(i) == (folder / split.names[i]).read_bytes()
            np.testing.assert_array_equal(own.read(i), split.read(i))
    assert all(split.annotation is None for split in ours.splits.values())
    assert survey_images(ours).sample == survey_images(theirs).sample
    assert len(pickle.dumps(ours.splits["train"])) < 6000


def test_captions_are_packed_and_read_where_they_are_asked_for(folder, packed):
    with_captions = open_data(DataConfig("", {"path": str(packed)}), "captions")[0]
    assert (with_captions.kind, with_captions.classes) == ("captions", ("ant", "bee ö"))
    assert list(with_captions.splits) == ["train"]
    train = with_captions.splits["train"]
    assert [train.annotation(i) for i in range(2)] == [("an ant, number 0, größer",), ("an ant, number 3, größer",)]
    assert list(train.names) == ["train/ant/0.JPG", "train/ant/3.JPG"]
    assert train.labels.tolist() == [0, 0]
    assert with_captions.notes[-1].startswith("left out, as they have no caption: 36 images, the first ")
    assert pickle.loads(pickle.dumps(train)).annotation(1) == train.annotation(1)  # noqa: S301
    pack_data(DataConfig("", {"path": str(packed)}), packed.parent / "again", 10**6)
    again = open_data(DataConfig("", {"path": str(packed.parent / "again")}), "captions")[0].splits["train"]
    assert [again.annotation(i) for i in range(2)] == [train.annotation(i) for i in range(2)]
    with pytest.raises(DataError, match="have classes and no masks"):
        open_data(DataConfig("", {"path": str(packed), "annotation": "masks"}))


def batches(dataset, workers, sampler="shuffle"):
    split = dataset.splits["train"]
    places = split.places if sampler == "windowed" else None
    stream = SampleStream(3, len(split), 6, places=places)
    return list(load_batches(Fetcher(split, AUGMENT), TrainRequests(stream, 2, 11, 0, 1), workers))


def test_batches_are_bit_equal_to_those_of_the_folder(folder, packed):
    for ours, theirs in zip(batches(look(packed), 2), batches(look(folder), 0), strict=True):
        assert (ours.images == theirs.images).all()
        assert (ours.labels == theirs.labels).all()
        np.testing.assert_array_equal(ours.keys.ids, theirs.keys.ids)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_them(folder, packed):
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(packed.glob("train-*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False, empty_check=False))
    split = look(folder).splits["train"]
    assert sorted(one["__key__"] for one in samples) == [f"{i:09d}" for i in range(len(split))]
    for one in samples:
        i = int(one["__key__"])
        ending = split.names[i].rpartition(".")[2].lower()
        assert one[ending] == (folder / split.names[i]).read_bytes()
        assert int(one["cls"]) == split.labels[i]
        assert json.loads(one["json"])["name"] == split.names[i]
    del samples
    gc.collect()  # it leaves files open


@pytest.mark.parametrize("name", ["shapes", "shapes-boxes", "a.npz"])
def test_masks_boxes_and_arrays_are_packed_too(tmp_path, name):
    keys = {"path": name, "count_train": 12, "count_val": 3, "count_test": 2}
    if name == "a.npz":
        draw, keys = np.random.default_rng(0), {"path": str(tmp_path / name)}
        arrays = {f"{part}_images": draw.integers(0, 256, (8, 9, 7), dtype=np.uint8) for part in ("train", "val")}
        np.savez(tmp_path / name, **arrays, train_labels=np.arange(8) % 2, val_labels=np.arange(8) % 2)
    theirs, choice = open_data(DataConfig("", keys))
    pack_data(choice, tmp_path / "s", 10**6)
    ours = look(tmp_path / "s")
    assert (ours.kind, ours.classes) == (theirs.kind, theirs.classes)
    for part, split in theirs.splits.items():
        for i in range(len(split)):
            np.testing.assert_array_equal(ours.splits[part].read(i), split.read(i))
            np.testing.assert_array_equal(ours.splits[part].labels, split.labels)
            if split.annotation is None:
                continue
            a, b = ours.splits[part].annotation(i), split.annotation(i)
            for one, two in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
                np.testing.assert_array_equal(one, two)
    index_shards(tmp_path / "s")  # from the tar files alone: the same again
    again = look(tmp_path / "s")
    assert again.classes == theirs.classes
    split = again.splits["train"]
    number = {n: i for i, n in enumerate(theirs.splits["train"].names)}
    for i, n in enumerate(split.names):
        np.testing.assert_array_equal(split.read(i), theirs.splits["train"].read(number[n]))


def test_the_windowed_order_reads_each_image_once_and_few_files_at_a_time(monkeypatch):
    monkeypatch.setattr("vitrail.data.sampling.WINDOW", 40)
    places = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20) << 40 | np.tile(np.arange(20), 10))
    one, two = windowed_order(5, 0, places), windowed_order(5, 1, places)
    assert sorted(one.tolist()) == sorted(two.tolist()) == list(range(200))
    assert (one != two).any()
    np.testing.assert_array_equal(one, windowed_order(5, 0, places))
    for first in range(0, 200, 40):
        assert len(set((places[one[first : first + 40]] >> 40).tolist())) == 2
    assert (np.diff(places[one[:40]]) < 0).any(), "shuffled within a window"


def test_order_is_a_function_of_the_step_windowed_too(packed):
    dataset = look(packed)
    whole = batches(dataset, 0, "windowed")
    again = batches(dataset, 2, "windowed")
    assert all((a.images == b.images).all() for a, b in zip(whole, again, strict=True))
    split = dataset.splits["train"]
    stream = SampleStream(3, len(split), 4, places=split.places)
    for world in (1, 2, 4):  # every position, resumed anywhere, over any number of processes
        for start in range(0, 14, 3):
            seen = [
                i
                for step in range(start, 14)
                for rank in range(world)
                for i in TrainRequests(stream, start, 14, rank, world)[step - start].ids.tolist()
            ]
            assert seen == [i for step in range(start, 14) for i in stream.keys(step).ids.tolist()]


def test_a_shard_that_was_changed_never_gives_wrong_pixels(folder, packed, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    dataset = look(copy)
    split = dataset.splits["train"]
    pieces = split.read.pieces
    path = copy / pieces.shards[int(pieces.shard[4])]
    whole = bytearray(path.read_bytes())
    whole[int(pieces.offsets[4]) + 30] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BadImage, match="is not what the index says: its SHA-256 differs"):
        look(copy).splits["train"].read(4)
    assert [bad.number for bad in survey_images(look(copy)).corrupt if bad.split == "train"] == [4]
    path.write_bytes(whole[:-700])
    with pytest.raises(DataError, match=r"bytes, and the index says .*: the index is older than it"):
        look(copy)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        look(copy)


@pytest.mark.parametrize("cut", [10, 200, -200, -1])
def test_a_damaged_index_is_refused(packed, tmp_path, cut):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    whole = (copy / NAME).read_bytes()
    (copy / NAME).write_bytes(whole[:cut])
    with pytest.raises(DataError, match="damaged or no index"):
        look(copy)


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                file.addfile(data)
            else:
                info = tarfile.TarInfo(name.removesuffix("#2"))
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def png(seed=0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sound(classes=("cat", "dog"), count=6):
    return {
        f"{i:04d}.{ending}": data
        for i in range(count)
        for ending, data in (("png", png(i)), ("cls", classes[i % 2].encode()), ("txt", f"caption {i}".encode()))
    }


@pytest.mark.parametrize("classes", [("cat", "dog"), ("0", "1")])
def test_shards_of_others_get_an_index(tmp_path, classes):
    tar(tmp_path / "s" / "a-000.tar", sound(classes))
    with pytest.raises(DataError, match="has tar files and no index"):
        look(tmp_path / "s")
    assert main(["pack", str(tmp_path / "s")]) == 0
    dataset = look(tmp_path / "s")
    assert dataset.classes == classes
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 4, "val": 2}
    for split in dataset.splits.values():
        for i, name in enumerate(split.names):
            number = int(name)
            assert split.labels[i] == number % 2
            assert split.read.encoded(i) == png(number)
    for split in open_data(DataConfig("", {"path": str(tmp_path / "s")}), "captions")[0].splits.values():
        assert [split.annotation(i) for i in range(len(split))] == [(f"caption {int(n)}",) for n in split.names]


def test_shards_with_captions_alone_get_an_index(tmp_path):
    """As img2dataset writes them: no label anywhere, captions in .txt or .json; one image has none."""
    files = {f"{i:04d}.png": png(i) for i in range(6)}
    files |= {f"{i:04d}.txt": f"caption {i}\n\n caption {i} \x00again".encode() for i in range(4)}
    files["0004.json"] = b'{"caption": "of the json", "width": 9}'
    tar(tmp_path / "s" / "00000.tar", dict(sorted(files.items())))
    assert main(["pack", str(tmp_path / "s")]) == 0
    dataset = look(tmp_path / "s")
    assert (dataset.kind, dataset.classes) == ("captions", ())
    captions = {n: split.annotation(i) for split in dataset.splits.values() for i, n in enumerate(split.names)}
    assert captions == {f"{i:04d}": (f"caption {i}", f"caption {i} again") for i in range(4)} | {
        "0004": ("of the json",)
    }
    assert "left out, as they have no caption: 1 image, the first 0005" in dataset.notes[-1]
    with pytest.raises(DataError, match="have captions and no classes"):
        open_data(DataConfig("", {"path": str(tmp_path / "s")}), "classes")


def test_captions_that_are_no_text_are_not_taken_for_texts(tmp_path, capsys):
    files = {f"{i:04d}.png": png(i) for i in range(4)} | {f"{i:04d}.txt": b"a cat" for i in range(2)}
    files |= {"0002.txt": "кошка".encode("utf-16"), "0003.json": b'{"captions": [null, {"a": 1}, "a dog"]}'}
    tar(tmp_path / "s" / "00000.tar", dict(sorted(files.items())))
    assert main(["pack", str(tmp_path / "s")]) == 0
    dataset = look(tmp_path / "s")
    captions = {n: split.annotation(i) for split in dataset.splits.values() for i, n in enumerate(split.names)}
    assert captions == {"0000": ("a cat",), "0001": ("a cat",), "0002": ("кошка",), "0003": ("a dog",)}
    tar(tmp_path / "t" / "00000.tar", dict(sorted((files | {"0001.txt": b"caf\xe9"}).items())))
    capsys.readouterr()
    assert main(["pack", str(tmp_path / "t")]) == 3
    assert "0001.txt is not UTF-8 text (byte 3)" in " ".join(capsys.readouterr().err.split())


def test_keys_that_count_anew_in_each_shard_are_named_by_their_shard(tmp_path):
    for number in range(2):
        tar(tmp_path / "s" / f"train-{number}.tar", sound(count=4))
    assert main(["pack", str(tmp_path / "s")]) == 0
    names = sorted(name for split in look(tmp_path / "s").splits.values() for name in split.names)
    assert names == [f"train-{number}/{i:04d}" for number in range(2) for i in range(4)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 1.0], [0, 1]),
        ([[0, 2.0], [1]], [[1, 0, 1], [0, 1, 0]]),
        (["a", "b"], [0, 1]),
        ([0.5, 1], "has the label 0.5 -> a label is the number or the name of a class"),
        ([{"a": 1}, 1], "has the label {'a': 1}"),
        ([-1, 0], "the labels go from -1 to"),
    ],
)
def test_labels_of_other_programs(tmp_path, labels, expected, capsys):
    rows = {
        f"{i:04d}.{ending}": data
        for i in range(8)
        for ending, data in (("png", png(i)), ("json", json.dumps({"label": labels[i % 2]}).encode()))
    }
    tar(tmp_path / "s" / "train-0.tar", rows)
    if isinstance(expected, str):
        assert main(["pack", str(tmp_path / "s")]) == 3
        assert expected in " ".join(capsys.readouterr().err.split())
        return
    assert main(["pack", str(tmp_path / "s")]) == 0
    for split in look(tmp_path / "s").splits.values():
        for i, name in enumerate(split.names):
            np.testing.assert_array_equal(split.labels[i], expected[int(name) % 2])


def test_a_number_below_zero_is_no_name_of_a_class(tmp_path, capsys):
    tar(tmp_path / "s" / "train-0.tar", sound(("-1", "0")))
    assert main(["pack", str(tmp_path / "s")]) == 3
    assert "the labels go from -1 to 0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("module", "how"), [(gzip, "gzip"), (bz2, "bzip2"), (lzma, "xz")])
def test_a_compressed_shard_is_called_so(tmp_path, module, how, capsys):
    path = tar(tmp_path / "s" / "train-0.tar", sound())
    path.write_bytes(module.compress(path.read_bytes()))
    assert main(["pack", str(tmp_path / "s")]) == 3
    assert f"is compressed ({how}), and images" in " ".join(capsys.readouterr().err.split())


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "a path above": ({"../0009.png": png()}, "has a path that leaves the shard"),
    "an absolute path": ({"/etc/0009.png": png()}, "has a path that leaves the shard"),
    "a pickle": ({"0009.png": png(), "0009.pkl": b"cos\nsystem\n"}, "may hold code, which is never read"),
    "a program": ({"0009.png": png(), "0009.py": b"1"}, "may hold code"),
    "a symlink": ({"0009.png": member("0009.png", tarfile.SYMTYPE, "/etc/passwd")}, "is a link"),
    "a hard link": ({"0009.png": member("0009.png", tarfile.LNKTYPE, "0001.png")}, "is a link"),
    "a pipe": ({"0009.png": member("0009.png", tarfile.FIFOTYPE)}, "is no plain file"),
    "a name twice": ({"0001.png#2": png()}, "is there twice"),
    "a key twice": ({"0009.png": png(), "0009.cls": b"cat", "0001.seg": b""}, "do not stand together"),
    "no label": ({"0009.png": png()}, "has neither a label nor a caption"),
    "no image": ({"0009.cls": b"cat"}, "has no image"),
    "two images": ({"0009.png": png(), "0009.jpg": png(), "0009.cls": b"cat"}, "has 2 images"),
    "a broken json": ({"0009.png": png(), "0009.json": b'{"a": '}, "cannot be read"),
    "mixed labels": ({"0009.png": png(), "0009.cls": b"7"}, "some labels are numbers and others are names"),
    "boxes for one": ({"0009.png": png(), "0009.json": b'{"boxes": [[1,2,3,4]], "labels": [0]}'}, "have no boxes"),
    "bad boxes": ({"0009.png": png(), "0009.json": b'{"boxes": [[1,2,3]], "labels": [0]}'}, "boxes that cannot be"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_shard_is_refused_in_a_sentence(tmp_path, capsys, kind):
    members, text = HOSTILE[kind]
    tar(tmp_path / "s" / "train-000.tar", {**sound(), **members})
    assert main(["pack", str(tmp_path / "s")]) == 3
    said = capsys.readouterr().err
    assert text in " ".join(said.split())
    assert len(said.splitlines()) <= 5
    assert not (tmp_path / "s" / NAME).exists()


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("mixed labels", "boxes for one")])
def test_what_is_refused_can_be_left_out_and_is_named(tmp_path, capsys, kind):
    members, text = HOSTILE[kind]
    tar(tmp_path / "s" / "train-000.tar", {**sound(count=9), **members})
    assert main(["pack", str(tmp_path / "s"), "--data.on-error", "skip"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert text in said
    assert "note: left out, as they cannot be packed: " in said
    names = sorted(name for split in look(tmp_path / "s").splits.values() for name in split.names)
    assert [name for name in names if name != "0009"] == [f"{i:04d}" for i in range(9)]
    assert main(["pack", str(tmp_path / "s"), "--data.on-error", "skip", "--data.max-errors", "0"]) == 3
    assert "--data.max-errors 0." in " ".join(capsys.readouterr().err.split())


def test_torn_shards_can_be_left_out_up_to_a_share(tmp_path, capsys):
    for number in range(5):
        tar(tmp_path / "s" / f"train-{number:03d}.tar", {f"{number}{k}": v for k, v in sound(count=2).items()})
    path = tmp_path / "s" / "train-002.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert main(["pack", str(tmp_path / "s"), "--data.on-error", "skip"]) == 0
    assert "1 shard: " in " ".join(capsys.readouterr().out.split())
    dataset = look(tmp_path / "s")
    assert len(dataset.entries) == 4
    assert sum(map(len, dataset.splits.values())) == 8
    for split in dataset.splits.values():
        for i, name in enumerate(split.names):
            assert name[0] != "2"
            assert split.read.encoded(i) == png(int(name[1:]))
    (tmp_path / "s" / "train-003.tar").write_bytes(b"")
    assert main(["pack", str(tmp_path / "s"), "--data.on-error", "skip"]) == 3


def test_images_that_cannot_be_read_are_left_out_of_what_is_packed(folder, tmp_path, monkeypatch):
    gone, encoded = "train/ant/4.png", FileReader.encoded

    def refuse(self, index):
        if self.names[index] == gone:
            raise PermissionError(13, "Permission denied")
        return encoded(self, index)

    monkeypatch.setattr(FileReader, "encoded", refuse)
    with pytest.raises(BadImage, match="Permission denied"):
        pack_data(DataConfig("", {"path": str(folder)}, on_error="fail"), tmp_path / "s", 20_000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"1 image of 38 cannot be packed, the first: train/ant/4\.png"):
        pack_data(DataConfig("", {"path": str(folder)}, max_errors=0.0), tmp_path / "s", 20_000)
    packed = pack_data(DataConfig("", {"path": str(folder)}), tmp_path / "s", 20_000)
    assert packed.parts == {"train": 27, "val": 10}
    assert any("left out, as they cannot be packed: 1 image: train/ant/4.png" in note for note in packed.notes)
    theirs, ours = look(folder).splits["train"], look(tmp_path / "s").splits["train"]
    assert list(ours.names) == [name for name in theirs.names if name != gone]
    for i, name in enumerate(ours.names):
        assert ours.read.encoded(i) == (folder / name).read_bytes()
        assert ours.labels[i] == theirs.labels[list(theirs.names).index(name)]


@pytest.mark.parametrize(("label", "corner"), [(3, 1.0), (-1, 1.0), (0, np.inf)])
def test_boxes_that_fit_no_class_are_refused_when_indexed_and_when_opened(tmp_path, capsys, label, corner):
    def boxes(label, corner=5.0):
        return {"0000.png": png(), "0000.json": json.dumps({"boxes": [[1, 2, corner, 4]], "labels": [label]}).encode()}

    tar(tmp_path / "s" / "train-000.tar", boxes(0))
    index_shards(tmp_path / "s")
    about, arrays = map_arrays(tmp_path / "s" / NAME)
    (tmp_path / "changed").mkdir()
    tar(tmp_path / "changed" / "train-000.tar", boxes(0))
    changed = {key: np.array(value, subok=False) for key, value in arrays.items()}
    changed["train.boxes.labels"][0], changed["train.boxes.corners"][0, 2] = label, corner
    (tmp_path / "changed" / NAME).write_bytes(encode_arrays(json.dumps(about), changed))
    with pytest.raises(DataError, match="it has boxes whose"):
        look(tmp_path / "changed")
    if label:  # the classes are those of the index that is there
        tar(tmp_path / "s" / "train-000.tar", boxes(label))
        assert main(["pack", str(tmp_path / "s")]) == 3
        assert "has a label that is none of the 1 classes" in " ".join(capsys.readouterr().err.split())


def test_a_torn_shard_is_refused_wherever_it_is_torn(tmp_path):
    whole = tar(tmp_path / "whole.tar", sound(count=2)).read_bytes()
    path = tmp_path / "s" / "train-000.tar"
    path.parent.mkdir()
    end = len(whole.rstrip(b"\0"))
    for cut in (0, 100, 511, 512, 600, 1024, end // 2, end - 1, end + 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut short|no tar file|no shards with images"):
            index_shards(path.parent)
    path.write_bytes(b"<html>" * 400)
    with pytest.raises(DataError, match="no tar file or is damaged"):
        index_shards(path.parent)


@pytest.mark.parametrize(
    "url", ["pipe:cat /etc/passwd", "file:///etc/passwd", "s3://bucket/x", "http://u:p@h/x", "http://h/x?y"]
)
def test_other_addresses_are_refused(url, capsys):
    assert main(["check", url]) in (2, 3)
    said = capsys.readouterr().err
    assert "no address of a folder" in said or "there is no" in said


def test_a_run_learns_the_same_from_shards(folder, packed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*tiny.WORDS, "--steps", "3", "--batch-size", "6", "--precision", "fp32", "--workers", "0"]
    log = ["--runtime.log-every", "1", "--train.eval-every", "0"]
    for data, out in ((folder, "one"), (packed, "two")):
        assert main(["train", "--data", str(data), *words, *log, "--out", out]) == 0
    rows = [
        [
            row["loss"]
            for line in Path(out, "log.jsonl").read_text().splitlines()
            if (row := json.loads(line)).get("loss")
        ]
        for out in ("one", "two")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3
    assert main(["train", "--data", str(packed), *words, "--data.sampler", "windowed", "--out", "three"]) == 0
    assert main(["train", "--data", str(folder), *words, "--data.sampler", "windowed", "--dry-run"]) == 2
    assert "vitrail pack DATA --out SHARDS" in capsys.readouterr().err


def test_nothing_is_overwritten_and_nothing_half_written_stays(folder, packed, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="never overwritten"):
        pack_data(DataConfig("", {"path": str(folder)}), packed, 10**6)
    with pytest.raises(UsageError, match=r"no folder of \.tar shards"):
        index_shards(folder)
    monkeypatch.setattr(
        "vitrail.assembly.opening.packing.write_index", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(DataError, match="cannot be written: full"):
        pack_data(DataConfig("", {"path": str(folder)}), tmp_path / "new", 10**6)
    assert list(tmp_path.iterdir()) == []


def test_pieces_are_found_through_parts(folder):
    split = look(folder).splits["train"]
    found = find_encoded(split.select(np.array([5, 2])), 1)
    assert found is not None
    assert found[0].encoded(found[1]) == split.read.encoded(2)
