"""Folders for machines without a network: what `vitrail fetch --to` writes, and what is found in them."""

import hashlib
import shutil

import pytest

from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError
from vitrail.weights.locate import fetch_to, locate
from vitrail.weights.remote import folder, lock

REPO, NAME, FILE = "org/tiny", "hf:org/tiny", "model.safetensors"
BODY = bytes(range(256)) * 40
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def tiny_repository(hub):
    hub.repos[REPO] = {FILE: BODY, "config.json": b"{}", "sub/model.safetensors": BODY[::-1], "sub/config.json": b"[]"}


def files_of(top):
    found = {p.relative_to(top).as_posix(): p.read_bytes() for p in top.rglob("*") if p.is_file()}
    return {name: body for name, body in found.items() if not name.startswith(".") and name != lock.NAME}


def fetch(hub, place, *names):
    for name in names:
        fetch_to(name, "", place)
    return files_of(place)


@pytest.fixture
def alone(hub, own_folder, monkeypatch):
    """Makes the machine one with empty caches and no hub, and a folder."""

    def carry(place):
        monkeypatch.setenv("VITRAIL_WEIGHTS", str(place))
        monkeypatch.setenv("HF_HOME", str(own_folder / "empty"))
        monkeypatch.setenv("TORCH_HOME", str(own_folder / "empty"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "empty"))
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    return carry


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-1], lambda body: body[:50] + b"x" + body[51:], lambda body: b""]
)
def test_a_copy_that_was_written_damaged_is_no_copy(hub, own_folder, monkeypatch, capsys, damage):
    """The disk says that all is well, and has something else."""

    def copy(source, target):
        target.write_bytes(damage(source.read_bytes()))

    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "copyfile", copy)
        assert main(["fetch", NAME, "--to", "carried"]) == 4
    assert "was written damaged" in capsys.readouterr().err
    assert not files_of(own_folder / "carried")
    assert not lock.read_lock(own_folder / "carried" / lock.NAME)
    assert main(["fetch", NAME, "--to", "carried"]) == 0
    assert files_of(own_folder / "carried")[f"org--tiny/{FILE}"] == BODY


def test_a_disk_that_gets_full_leaves_no_part_of_a_file(hub, own_folder, monkeypatch):
    def copy(source, target):
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    locate(NAME)
    monkeypatch.setattr(folder.shutil, "copyfile", copy)
    with pytest.raises(CheckpointError, match="cannot be written: No space left") as error:
        fetch_to(NAME, "", own_folder / "carried")
    assert "--to" in error.value.fix
    assert not [p for p in (own_folder / "carried").rglob("*") if p.is_file()]


def test_files_of_one_name_lie_apart(hub, own_folder, alone):
    hub.files |= {"a/vit.pth": BODY, "b/vit.pth": BODY[::-1]}
    first, second = f"{hub.url}/files/a/vit.pth", f"{hub.url}/files/b/vit.pth"
    names = {NAME: BODY, f"{NAME}/sub/{FILE}": BODY[::-1], first: BODY, second: BODY[::-1]}
    written = fetch(hub, own_folder / "carried", *names)
    assert written["org--tiny/config.json"] == b"{}"
    assert written["org--tiny/sub/config.json"] == b"[]"
    alone(own_folder / "carried")
    for name, body in names.items():
        assert locate(name).files.read_bytes() == body
    assert locate(f"{NAME}/sub/{FILE}").files.with_name("config.json").read_bytes() == b"[]"


def test_a_commit_is_found_by_the_branch_that_it_was(hub, own_folder, alone):
    fetch(hub, own_folder / "carried", NAME)
    commit = hub.commit(REPO)
    alone(own_folder / "carried")
    assert locate(NAME).name == f"{NAME}@{commit}/{FILE}"  # as a run keeps it
    assert locate(f"{NAME}@{commit}/{FILE}").sha256 == locate(f"{NAME}@{commit}").sha256 == SHA
    with pytest.raises(CheckpointError, match="cannot be reached"):
        locate(f"{NAME}@{'0' * 40}/{FILE}")


def test_a_licence_is_carried_along(hub, own_folder, alone):
    hub.licences[REPO] = "cc-by-nc-4.0"
    with pytest.raises(UsageError, match="nothing was fetched"):
        fetch_to(NAME, "", own_folder / "carried")
    assert not (own_folder / "carried").exists()
    fetch_to(NAME, "cc-by-nc-4.0", own_folder / "carried")
    alone(own_folder / "carried")
    assert locate(NAME).licence == locate(locate(NAME).name).licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("place", ["org--tiny", "org/tiny", "tiny"])
def test_what_a_person_put_there(hub, own_folder, monkeypatch, place):
    (own_folder / "usb" / place).mkdir(parents=True)
    (own_folder / "usb" / place / FILE).write_bytes(BODY)
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "usb"))
    assert locate(NAME).sha256 == SHA
    assert not hub.log
    lock.save_pin(f"{NAME}/{FILE}", lock.Pin("0" * 64))  # this machine knows it as another file
    with pytest.raises(CheckpointError, match=f"its SHA-256 is {SHA}, expected {'0' * 64}"):
        locate(NAME)


def test_a_row_of_the_lock_leads_to_no_other_folder(hub, own_folder, monkeypatch):
    fetch(hub, own_folder / "carried", NAME)
    shutil.move(own_folder / "carried" / "org--tiny", own_folder / "elsewhere")
    pin = lock.read_lock(own_folder / "carried" / lock.NAME)[f"{NAME}/{FILE}"]
    for path in (f"../elsewhere/{FILE}", (own_folder / "elsewhere" / FILE).as_posix()):
        lock.save_pin(f"{NAME}/{FILE}", lock.Pin(pin.sha256, pin.size, pin.revision, path=path),
                      own_folder / "carried" / lock.NAME)  # fmt: skip
        monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "carried"))
        assert own_folder / "elsewhere" not in locate(NAME).files.parents


def test_what_is_here_is_not_fetched(hub, own_folder):
    (own_folder / "mine.pth").write_bytes(BODY)
    with pytest.raises(UsageError, match="is on this machine already"):
        fetch_to("mine.pth", "", own_folder / "carried")
