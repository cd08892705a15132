"""Each check on the way of a file by itself: what would come in, or be asked for, if it were not there."""

import hashlib
import threading

import numpy as np
import pytest

from vitrail.errors import CheckpointError, UsageError
from vitrail.weights import locate as locating
from vitrail.weights.locate import locate
from vitrail.weights.remote import hub as hub_cache
from vitrail.weights.remote import lock, web
from vitrail.weights.remote.lock import Pin
from vitrail.weights.remote.table import find_row

REPO, NAME, FILE = "org/tiny", "hf:org/tiny", "model.safetensors"
BODY = np.random.default_rng(1).integers(0, 256, 50_000, np.uint8).tobytes()
SHA = hashlib.sha256(BODY).hexdigest()
CONFIG = b'{"architecture": "vit_tiny_patch16_224"}'


@pytest.fixture(autouse=True)
def tiny_repository(hub):
    hub.repos[REPO] = {FILE: BODY, "config.json": CONFIG}
    hub.files["vit.pth"] = BODY


def half_file(body):
    path = hub_cache.repo_folder(REPO) / "blobs" / f"{SHA}.incomplete"
    path.parent.mkdir(parents=True)
    path.write_bytes(body)


def asked_for(hub, file=FILE, method=""):
    return [row for row in hub.requests(method) if row[1].endswith(file)]


# ---------------------------------------------------------------- taking up again


def test_a_whole_half_file_moves_no_byte(hub):
    half_file(BODY)
    assert locate(NAME).sha256 == SHA
    assert hub.sent == len(CONFIG)


def test_another_part_than_the_one_asked_for_is_not_joined(hub):
    half_file(BODY[:20_000])
    hub.faults[FILE] = "other range"
    assert locate(NAME).sha256 == SHA
    assert not [row for row in asked_for(hub, method="GET")[2:] if row[2]]  # it begins anew at once


def test_a_line_that_gets_no_further_is_given_up(hub):
    hub.faults[FILE] = ("cut, no range", [0.5, 0.2] * 50)
    with pytest.raises(CheckpointError, match="the connection broke"):
        locate(NAME)
    assert len(asked_for(hub, method="GET")) <= 5


# ---------------------------------------------------------------- what a server says


@pytest.mark.parametrize("etag", ["../../../../escaped", "a/b", "..", "*"])
def test_an_etag_is_no_path(hub, own_folder, etag):
    hub.faults[FILE] = ("etag", etag)
    located = locate(NAME)
    assert located.sha256 == SHA
    assert (hub_cache.repo_folder(REPO) / "blobs") == located.files.resolve().parent
    assert not list(own_folder.rglob("escaped*"))


def test_a_server_that_names_no_commit_is_no_hub(hub):
    hub.faults[FILE] = "no commit"
    with pytest.raises(CheckpointError, match="does not answer as the hub does: it names no commit"):
        locate(NAME)
    assert hub.sent == 0


def test_what_is_pinned_is_asked_for_by_its_commit(hub):
    commit = locate(NAME).revision
    for path in sorted((hub_cache.repo_folder(REPO)).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    hub.log.clear()
    assert locate(NAME).revision == commit
    assert {row[1].split("/")[4] for row in asked_for(hub)} == {commit}


def test_what_is_pinned_is_held_against_its_hash_where_a_server_states_none(hub):
    located = locate(NAME)
    hub_cache.remove_cached(located.files)
    hub.faults[FILE] = "no etag"
    hub.repos[REPO] = {FILE: BODY[::-1], "config.json": CONFIG}
    lock.save_pin(f"{NAME}/{FILE}", Pin(SHA))
    with pytest.raises(CheckpointError, match=f"arrived damaged twice and was removed: .* expected {SHA}"):
        locate(NAME)


def test_both_hashes_are_shown_whole(hub, capsys):
    from vitrail.cli.main import main

    repo = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    hub.repos[repo] = {FILE: BODY}
    hub.faults[FILE] = "flip"
    for name in ("vit/small:augreg-in21k-1k", f"hf:{repo}"):
        assert main(["fetch", name]) == 4
        assert f"expected {SHA}" in " ".join(capsys.readouterr().err.split())
    hub.faults.clear()
    lock.save_pin(f"hf:{repo}/{FILE}", Pin("0" * 64))
    assert main(["fetch", "vit/small:augreg-in21k-1k"]) == 4
    text = " ".join(capsys.readouterr().err.split())
    assert f"SHA-256 {SHA}, pinned {'0' * 64}; not fetched" in text
    assert f'remove ["hf:{repo}/{FILE}"] from' in text


def test_redirects_without_end(hub):
    hub.faults[FILE] = ("redirect", f"{hub.url}/{REPO}/resolve/main/{FILE}")
    with pytest.raises(CheckpointError, match="more than 5 redirects"):
        locate(NAME)


def test_what_is_not_there_is_asked_for_once(hub):
    with pytest.raises(CheckpointError, match="no file there"):
        locate(f"{hub.url}/files/none.pth")
    assert len(hub.log) == 1


def test_a_silent_server_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(web, "SILENCE_S", 0.05)
    hub.faults["vit.pth"] = ("silent", 0.3)
    with pytest.raises(CheckpointError, match="no answer within"):
        locate(f"{hub.url}/files/vit.pth")


@pytest.mark.parametrize(("wanted", "pause"), [("3", 3.0), ("999999999", 20.0), ("soon", 0.001), ("", 0.001)])
def test_a_pause_is_as_long_as_a_server_asks_within_bounds(hub, wanted, pause):
    slept = []
    web.Attempt(web.Server(hub.url, sleep=slept.append), 1).pause(wanted)
    assert slept == [pause]


# ---------------------------------------------------------------- what lies in the cache


def test_a_blob_without_its_name_is_verified_before_it_gets_one(hub):
    located = locate(NAME)
    located.files.unlink()
    (hub_cache.repo_folder(REPO) / "blobs" / SHA).write_bytes(BODY[:-1])
    assert locate(NAME).files.read_bytes() == BODY


def test_a_name_without_its_blob(hub):
    located = locate(NAME)
    located.files.resolve().unlink()
    assert locate(NAME).files.read_bytes() == BODY


def test_a_branch_that_is_no_commit_is_not_followed(hub, own_folder):
    refs = hub_cache.repo_folder(REPO) / "refs" / "main"
    refs.parent.mkdir(parents=True)
    (hub_cache.repo_folder(REPO) / "elsewhere").mkdir()
    (hub_cache.repo_folder(REPO) / "elsewhere" / FILE).write_bytes(b"planted")
    (hub_cache.repo_folder(REPO) / "snapshots").mkdir()
    refs.write_text("../elsewhere")
    assert locate(NAME).sha256 == SHA


def test_a_damaged_sidecar_is_fetched_again_and_a_large_one_is_not(hub):
    beside = locate(NAME).files.with_name("config.json")
    beside.resolve().write_bytes(b"{}")
    locate(NAME)
    assert beside.read_bytes() == CONFIG
    hub_cache.remove_cached(beside)
    hub.faults["config.json"] = ("size", 10**9)
    assert locate(NAME).sha256 == SHA
    assert not beside.exists()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody_for_anything(hub, monkeypatch, variable):
    located = locate(NAME)
    hub_cache.remove_cached(located.files.with_name("config.json"))
    address = f"{hub.url}/files/vit.pth"
    fetched = locate(address).files
    monkeypatch.setenv(variable, "1")
    asked = len(hub.log)
    assert locate(NAME).sha256 == locate(address).sha256 == SHA
    fetched.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"damaged and was removed.*expected"):
        locate(address)
    for name in (address, "hf:org/other", "hf:org/other/model.safetensors"):
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids"):
            locate(name)
    assert len(hub.log) == asked


def test_the_login_is_left_out_where_that_is_wanted(hub, monkeypatch, tmp_path):
    (tmp_path / "hf_home").mkdir()
    (tmp_path / "hf_home" / "token").write_text("of the login")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_cache.read_token() == ""


# ---------------------------------------------------------------- addresses


def test_a_server_that_answers_no_head(hub):
    hub.faults["vit.pth"] = ("no head", 405)
    assert locate(f"{hub.url}/files/vit.pth").sha256 == SHA


def test_one_address_at_once(hub):
    found = []
    threads = [threading.Thread(target=lambda: found.append(locate(f"{hub.url}/files/vit.pth").sha256)) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA] * 4


def test_the_hash_of_the_table_is_above_the_pin(hub, monkeypatch):
    """A pin that contradicts the public hash was not of this file."""
    url = f"{hub.url}/files/vit.pth"
    monkeypatch.setattr(locating, "parse_name", lambda name, runs: locating.Reference("url", url=url, file="vit.pth",
                        row=find_row("vit/base:tv-in1k").__class__(**{**vars(find_row("vit/base:tv-in1k")), "url": url,
                                                                      "sha256": SHA[:8]})))  # fmt: skip
    lock.save_pin(url, Pin("0" * 64))
    assert locate("x").sha256 == SHA
    assert lock.find_pin(url).sha256 == SHA
    hub.files["vit.pth"] = BODY[::-1]
    locate("x").files.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"expected {SHA}"):
        locate("x")


# ---------------------------------------------------------------- licences and files


@pytest.mark.parametrize("name", ["vit/base:mae", "vit/base:swag"])
def test_a_pin_alone_accepts_no_licence(hub, name):
    row = find_row(name)
    key = f"hf:{row.repo}/{row.file}" if row.repo else row.url
    for pin in (Pin(SHA, licence=row.licence), Pin(SHA, licence="mit", accepted=True)):
        lock.save_pin(key, pin)
        with pytest.raises(UsageError, match="nothing was fetched"):
            locate(name)
    assert not hub.log


def test_a_licence_of_its_own_has_its_name(hub):
    hub.licences[REPO] = "other"
    hub.cards[REPO] = {"license": "other", "license_name": "Tiny-License"}
    with pytest.raises(UsageError, match="tiny-license"):
        locate(NAME)
    assert locate(NAME, "tiny-license").licence == "tiny-license"


def test_what_a_trainer_left_is_no_file_of_weights(hub):
    hub.repos["org/many"] = dict.fromkeys(["weird.pth", "optimizer.pt", "runs/scheduler.pt"], BODY)
    assert locate("hf:org/many").files.name == "weird.pth"


def test_a_file_on_the_disk_is_known_by_its_hash(hub, own_folder, monkeypatch):
    row = find_row("vit/base:mae")
    monkeypatch.setattr(locating, "find_hash", lambda digest: row if digest == SHA else None)
    (own_folder / "mine.pth").write_bytes(BODY)
    (own_folder / "other.pth").write_bytes(BODY[::-1])
    located = locate("mine.pth")
    assert (located.model.name, located.licence) == ("vit/base", "cc-by-nc-4.0")
    assert "known by its SHA-256" in located.reasons[0]
    assert locate("other.pth").model is None
