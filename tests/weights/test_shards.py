"""Weights in several files, on loopback: each file is verified, pinned, taken up again and carried like one alone."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError
from vitrail.weights.folders import read_published
from vitrail.weights.locate import locate
from vitrail.weights.remote import download, lock
from vitrail.weights.remote import hub as hub_cache

REPO, NAME, INDEX = "org/parts", "hf:org/parts", "model.safetensors.index.json"
TENSORS = {f"blocks.{i}.weight": torch.randn(40, 50, generator=torch.Generator().manual_seed(i)) for i in range(6)}
PARTS = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
BODIES = {file: save(dict(list(TENSORS.items())[2 * i : 2 * i + 2])) for i, file in enumerate(PARTS)}
MAP = {name: PARTS[i // 2] for i, name in enumerate(TENSORS)}
SIZE = sum(map(len, BODIES.values()))


def index_of(table, size=0):
    return json.dumps({"metadata": {"total_size": size}, "weight_map": table}).encode()


CONFIG = b'{"model_type": "vit"}'
SMALL = len(CONFIG) + len(index_of(MAP))


@pytest.fixture(autouse=True)
def parted(hub):
    hub.repos[REPO] = {**BODIES, INDEX: index_of(MAP), "config.json": CONFIG}


def right(located):
    raw, sidecar = read_published(located.files, located.sha256)
    assert raw.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(raw.tensors[name], t) for name, t in TENSORS.items())
    assert sidecar.config
    return located


def test_all_files_are_fetched_and_pinned_once_and_asked_for_no_more(hub):
    first = right(locate(NAME))
    assert "3 files" in first.reasons[-1]
    assert f"{(SIZE + len(index_of(MAP))) / 1e6:,.1f} MB were fetched" in first.reasons[-1]
    assert hub.sent == SIZE + SMALL
    pins = lock.read_lock(lock.lock_path())
    commit = hub.commit(REPO)
    for file, body in BODIES.items():
        assert pins[f"{NAME}@{commit}/{file}"].sha256 == hashlib.sha256(body).hexdigest()
    assert pins[f"{NAME}/{INDEX}"].revision == commit
    asked = len(hub.log)
    second = right(locate(NAME))
    assert "it was on this machine" in second.reasons[-1]
    assert (second.sha256, second.name) == (first.sha256, f"{NAME}@{commit}/{INDEX}")
    for name in (second.name, f"{NAME}@{commit}", f"{NAME}/{INDEX}"):
        assert right(locate(name)).sha256 == first.sha256
    assert len(hub.log) == asked


def test_a_cut_is_taken_up_in_the_file_that_it_was_in(hub):
    hub.faults[PARTS[1]] = "truncate"
    with pytest.raises(CheckpointError, match="taken up again"):
        locate(NAME)
    hub.faults.clear()
    hub.sent = 0
    right(locate(NAME))
    half = len(BODIES[PARTS[1]]) // 2
    assert hub.sent <= len(BODIES[PARTS[1]]) - half + len(BODIES[PARTS[2]]) + len(CONFIG)


@pytest.mark.parametrize("file", [INDEX, PARTS[0], PARTS[2]])
def test_a_flipped_byte_in_any_file(hub, file):
    hub.faults[file] = "flip"
    with pytest.raises(CheckpointError, match=f"{file} arrived damaged twice and was removed"):
        locate(NAME)
    hub.faults.clear()
    located = right(locate(NAME))
    path = located.files.with_name(file)
    body = path.read_bytes()
    path.resolve().write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    hub.sent = 0
    assert "was damaged and was removed" in right(locate(NAME)).reasons[0]
    assert hub.sent == len(body)


def test_files_are_of_the_commit_of_their_index(hub):
    hub.faults[PARTS[2]] = ("busy", 99)
    with pytest.raises(CheckpointError, match="busy"):
        locate(NAME)
    hub.faults.clear()
    hub.repos[REPO][PARTS[2]] = save({"other": torch.zeros(3)})  # main moves on between two files
    with pytest.raises(CheckpointError, match="has no revision"):  # this hub keeps one commit alone
        locate(NAME)


def test_a_file_that_the_repository_lacks(hub):
    del hub.repos[REPO][PARTS[1]]
    with pytest.raises(CheckpointError, match=f"has no {PARTS[1]}, which its {INDEX} names") as error:
        locate(NAME)
    assert "other weights" in error.value.fix


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "c:x.safetensors", "x.sh", "..",
     "", ".safetensors", "x\n.safetensors", "x" * 300 + ".safetensors", 3, None, ["a.safetensors"]],
)  # fmt: skip
def test_an_index_names_files_beside_it_alone(hub, name):
    hub.repos[REPO][INDEX] = index_of({**MAP, "more": name})
    with pytest.raises(CheckpointError, match="which is no file of weights beside it"):
        locate(NAME)
    assert not [row for row in hub.log if "model-0" in row[1]]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", index_of({}), index_of([]), b'{"weight_map": 3}', b"\xff"])
def test_an_index_that_is_none(hub, body):
    hub.repos[REPO][INDEX] = body
    with pytest.raises(CheckpointError, match=INDEX.replace(".", r"\.")) as error:
        locate(NAME)
    assert "other weights" in error.value.fix


def test_an_index_of_too_many_files(hub):
    hub.repos[REPO][INDEX] = index_of({str(i): f"{i}.bin" for i in range(1001)})
    with pytest.raises(CheckpointError, match="1,001 files"):
        locate(NAME)


@pytest.mark.parametrize("table", [{**MAP, "none": PARTS[0]}, {**MAP, next(iter(MAP)): PARTS[2]}])
def test_a_tensor_that_is_not_in_its_file(hub, table):
    hub.repos[REPO][INDEX] = index_of(table)
    with pytest.raises(CheckpointError, match="lists 1 tensors that are not in their files: '"):
        read_published(locate(NAME).files)


def test_one_tensor_in_two_files(hub):
    hub.repos[REPO][PARTS[1]] = save({name: TENSORS[name] for name in list(TENSORS)[1:4]})
    with pytest.raises(CheckpointError, match=r"two files in .* have a tensor of one name"):
        read_published(locate(NAME).files)


@pytest.mark.parametrize(("size", "message"), [(10**12, "more than the 32 GB"), (2**34, "does not fit on the disk")])
def test_all_of_them_together_are_too_large(hub, monkeypatch, size, message):
    from collections import namedtuple

    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(2**33))
    hub.repos[REPO][INDEX] = index_of(MAP, size)
    with pytest.raises(CheckpointError, match=message):
        locate(NAME)
    assert not [row for row in hub.log if "model-0" in row[1]]


def test_a_licence_is_named_before_the_index(hub):
    hub.licences[REPO] = "cc-by-nc-4.0"
    with pytest.raises(UsageError, match="nothing was fetched"):
        locate(NAME)
    assert hub.sent == 0
    located = right(locate(NAME, "cc-by-nc-4.0"))
    assert locate(located.name).licence == locate(NAME).licence == "cc-by-nc-4.0"


def test_in_a_folder_below(hub):
    hub.repos["org/deep"] = {f"tower/{name}": body for name, body in hub.repos[REPO].items()}
    located = right(locate(f"hf:org/deep/tower/{INDEX}"))
    assert located.files.parent.name == "tower"


def test_the_usual_name_of_one_file_comes_first(hub):
    hub.repos[REPO]["model.safetensors"] = save(TENSORS)
    assert locate(NAME).files.name == "model.safetensors"
    hub.repos["org/odd"] = {"vit.bin.index.json": index_of(MAP), "tf_model.h5.index.json": b"{}", **BODIES}
    assert locate("hf:org/odd").files.name == "vit.bin.index.json"


def test_a_folder_that_is_carried(hub, own_folder, monkeypatch, capsys):
    assert main(["fetch", NAME, "--to", "carried"]) == 0
    assert {p.name for p in (own_folder / "carried" / "org--parts").iterdir()} == {INDEX, *PARTS, "config.json"}
    commit, hash_here, asked = hub.commit(REPO), locate(NAME).sha256, len(hub.log)
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "carried"))
    monkeypatch.setenv("HF_HOME", str(own_folder / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "empty too"))
    for name in (NAME, f"{NAME}@{commit}", f"{NAME}@{commit}/{INDEX}"):
        located = right(locate(name))
        assert located.sha256 == hash_here
        assert (own_folder / "carried") in located.files.parents
    part = own_folder / "carried" / "org--parts" / PARTS[1]
    body = part.read_bytes()
    part.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{PARTS[1]} is not the file that it should be"):
        locate(NAME)
    part.unlink()
    with pytest.raises(CheckpointError, match=f"names {PARTS[1]}, which is not there"):
        locate(NAME)
    assert len(hub.log) == asked


def test_what_somebody_brought_by_hand(hub, own_folder, monkeypatch):
    place = own_folder / "usb" / "parts"
    place.mkdir(parents=True)
    for name, body in hub.repos[REPO].items():
        (place / name).write_bytes(body)
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "usb"))
    located = right(locate(NAME))
    assert located.files.parent == place
    assert not hub.log
    monkeypatch.delenv("VITRAIL_WEIGHTS")
    assert right(locate(NAME)).sha256 == located.sha256
    for path in (place, place / INDEX):  # a folder, or its index, by its path
        assert read_published(locate(str(path)).files)[0].sha256 == located.sha256


def test_an_index_on_the_disk_is_imported_by_its_path(own_folder, capsys):
    place = own_folder / "some" / "parts"
    place.mkdir(parents=True)
    (place / INDEX).write_bytes(index_of(MAP))
    assert main(["import", str(place / INDEX)]) == 4
    assert f"names {PARTS[0]}, which is not there" in " ".join(capsys.readouterr().err.split())


def test_offline_with_a_file_missing(hub, monkeypatch):
    located = right(locate(NAME))
    hub_cache.remove_cached(located.files.with_name(PARTS[0]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids"):
        locate(NAME)


def test_a_server_without_hashes_keeps_files_apart(hub):
    hub.faults |= dict.fromkeys([INDEX, *PARTS, "config.json"], "no etag")
    right(locate(NAME))
