"""Names and files as arrays, in memory or mapped from a file; a file that was changed is refused."""

import gc
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from vitrail.data.dataset import ArrayReader, Entry, Split
from vitrail.data.fingerprint import differences, fingerprint, read_differences, read_entries, write_entries
from vitrail.data.index.arrays import encode_arrays, map_arrays
from vitrail.data.index.listing import pack_entries
from vitrail.data.index.names import Names, pack_names
from vitrail.errors import DataError

ODD = ["b/ä.png", "a/with\nbreak 100%.png", "a/\udcff.png", "", "z" * 300]


def load(sent):
    """What a worker process gets."""
    return pickle.loads(sent)  # noqa: S301


def test_names_are_those_that_were_packed():
    names = pack_names(ODD)
    assert isinstance(names, Names)
    assert (names, len(names), names[2], names[-1]) == (ODD, 5, ODD[2], ODD[-1])
    assert names[1:3] == ODD[1:3]
    assert list(names.select(np.array([3, 0, 0]))) == [ODD[3], ODD[0], ODD[0]]
    assert pack_names(names) is names
    assert list(pack_names([])) == []
    many = [str(i) for i in range(70_000)]
    assert list(pack_names(many)) == many


def test_files_are_listed_sorted_and_their_text_is_that_of_former_runs(tmp_path):
    entries = [Entry(name, i, 10**18 + i) for i, name in enumerate(ODD)]
    listing = pack_entries(entries)
    assert list(listing) == sorted(entries)
    assert listing[1] == sorted(entries)[1]
    assert listing[:2] == sorted(entries)[:2]
    assert fingerprint(entries) == fingerprint(listing) == fingerprint(reversed(entries))
    write_entries(tmp_path / "e", entries)
    assert read_entries(tmp_path / "e") == tuple(sorted(entries))
    assert read_differences(tmp_path / "e", listing) == []
    changed = [entries[0]._replace(modified=5), *entries[2:], Entry("new", 1, 1)]
    assert read_differences(tmp_path / "e", changed) == differences(entries, changed)
    assert len(read_differences(tmp_path / "e", changed)) == 3


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what is in memory")
def test_mapped_names_are_in_memory_for_a_block_at_a_time(tmp_path):
    """What a process has looked at of a mapped file counts as its memory, until it is given back."""
    names = pack_names(f"{i:01000d}" for i in range(20_000))
    parts = {"text": names.text, "starts": names.starts, "ends": names.ends}
    path = tmp_path / "index"
    path.write_bytes(encode_arrays("{}", parts))
    del names
    before = resident(path)
    _, mapped = map_arrays(path)
    assert resident(path) - before < 2**20, "its hash is made of what is read, not of what is mapped"
    found = Names(mapped["text"], mapped["starts"], mapped["ends"])
    most = 0
    for number, block in enumerate(found.blocks(2000)):
        assert list(block)[7] == f"{number * 2000 + 7:01000d}"
        most = max(most, resident(path))
    assert 0 < most < path.stat().st_size / 2
    assert list(found)[19_999] == f"{19_999:01000d}"
    assert resident(path) > path.stat().st_size / 2


def resident(path):
    """Bytes of a mapped file that are in the memory of this process."""
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    at = [i for i, line in enumerate(maps) if line.endswith(str(path))]
    return sum(int(next(line for line in maps[i:] if line.startswith("Rss:")).split()[1]) * 1024 for i in at)


def test_images_in_memory_are_sent_as_the_place_of_a_file_that_goes_with_them():
    images = np.random.default_rng(0).integers(0, 256, (40, 100, 100, 3), dtype=np.uint8)
    split = Split([str(i) for i in range(40)], np.arange(40), ArrayReader(images)).shared()
    sent = pickle.dumps(split)
    assert len(sent) < 3000
    path = Path(split.array.origin.path)
    theirs = load(sent)
    for own in (split, theirs, theirs.select(np.array([7, 3]))):
        expected = images if len(own) == 40 else images[[7, 3]]
        np.testing.assert_array_equal(own.array, expected)
    theirs.read(3)[:] = 0  # writes to the memory of this process alone
    np.testing.assert_array_equal(split.read(3), images[3])
    del split, own
    gc.collect()
    assert not path.parent.exists()
    np.testing.assert_array_equal(theirs.read(4), images[4])
    few = Split(["a"], np.zeros(1, np.int64), ArrayReader(images[:1]))
    assert few.shared().array.base is few.array.base, "not worth a file"


def arrays():
    return {
        "bytes": np.arange(13, dtype=np.uint8),
        "numbers": np.arange(6).reshape(2, 3),
        "none": np.zeros(0, np.int64),
    }


def write(path, about=None):
    path.write_bytes(encode_arrays(json.dumps(about or {"classes": ["a", "ä"]}), arrays()))
    return path


def test_arrays_are_mapped_as_they_were_and_safetensors_reads_them(tmp_path):
    from safetensors.numpy import load_file

    about, mapped = map_arrays(write(tmp_path / "a.safetensors"))
    assert about == {"classes": ["a", "ä"]}
    theirs = load_file(tmp_path / "a.safetensors")
    for name, array in arrays().items():
        np.testing.assert_array_equal(mapped[name], array)
        np.testing.assert_array_equal(theirs[name], array)
        assert mapped[name].dtype == array.dtype


def test_another_process_gets_the_place_of_an_array(tmp_path):
    large = {"x": np.arange(10**5)}
    (tmp_path / "a").write_bytes(encode_arrays("{}", large))
    mapped = map_arrays(tmp_path / "a")[1]["x"]
    sent = pickle.dumps(mapped)
    assert len(sent) < 500
    np.testing.assert_array_equal(load(sent), large["x"])
    np.testing.assert_array_equal(load(pickle.dumps(mapped[10:20] + 1)), large["x"][10:20] + 1)
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load(sent)


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path):
    whole = write(tmp_path / "a").read_bytes()
    for at in range(0, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            about, mapped = map_arrays(tmp_path / "b")
        except DataError:
            continue  # what is left are blanks of the header and the gaps between arrays
        assert about == {"classes": ["a", "ä"]}
        assert all((mapped[name] == array).all() for name, array in arrays().items())
    for end in range(0, len(whole), 11):
        (tmp_path / "b").write_bytes(whole[:end])
        with pytest.raises(DataError, match="damaged or no index"):
            map_arrays(tmp_path / "b")
    with pytest.raises(DataError, match="cannot be read: no such file"):
        map_arrays(tmp_path / "gone")
