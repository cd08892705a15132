"""Downloads with everything that goes wrong on the way, on loopback: each fault has its right answer, and requests and
bytes are counted."""

import errno
import hashlib
import os
from collections import namedtuple

import numpy as np
import pytest
from fakehub import Hub

from vitrail.errors import CheckpointError, UsageError
from vitrail.weights.locate import locate
from vitrail.weights.remote import download, lock
from vitrail.weights.remote import hub as hub_cache
from vitrail.weights.remote.web import Server

REPO, NAME, FILE = "org/tiny", "hf:org/tiny", "model.safetensors"
BODY = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
SHA = hashlib.sha256(BODY).hexdigest()
CONFIG = b'{"architecture": "vit_tiny_patch16_224"}'


@pytest.fixture(autouse=True)
def tiny_repository(hub):
    hub.repos[REPO] = {FILE: BODY, "config.json": CONFIG}


def blob():
    return hub_cache.repo_folder(REPO) / "blobs" / SHA


def right(located):
    """The file is there, whole, under its name in the cache."""
    assert located.sha256 == SHA
    assert located.files.name == FILE
    assert located.files.read_bytes() == BODY
    assert located.files.resolve() == blob()
    return located


def test_the_first_use_fetches_and_pins_and_later_ones_ask_nobody(hub):
    first = right(locate(NAME))
    assert (first.files.parent / "config.json").read_bytes() == CONFIG
    assert lock.read_lock(lock.lock_path())[f"{NAME}/{FILE}"].sha256 == SHA
    assert hub.sent == len(BODY) + len(CONFIG)
    asked = len(hub.log)
    second = right(locate(NAME))
    assert len(hub.log) == asked
    assert "it was on this machine" in second.reasons[-1]
    assert second.name == f"{NAME}@{hub.commit(REPO)}/{FILE}"
    right(locate(second.name))
    assert len(hub.log) == asked


def test_the_cache_is_that_of_the_hubs_own_library(hub, monkeypatch):
    """What we fetched it finds without a request, and we find what it fetched."""
    library = pytest.importorskip("huggingface_hub")
    located = right(locate(NAME))
    own = library.try_to_load_from_cache(REPO, FILE, cache_dir=hub_cache.hub_cache())
    assert os.path.samefile(own, located.files)
    missing = library.try_to_load_from_cache(REPO, "preprocessor_config.json", cache_dir=hub_cache.hub_cache())
    assert missing is library.file_download._CACHED_NO_EXIST
    os.remove(lock.lock_path())
    asked = len(hub.log)
    right(locate(NAME))  # nothing is pinned: the name of the blob says what the hub stated
    assert len(hub.log) == asked


# ---------------------------------------------------------------- faults


def test_flipped_in_transit(hub):
    hub.faults[FILE] = "flip"
    with pytest.raises(CheckpointError, match="arrived damaged twice and was removed") as error:
        locate(NAME)
    assert SHA in error.value.what
    assert len([w for w in error.value.what.replace(",", " ").split() if len(w) == 64]) == 2
    assert not list(blob().parent.glob("*"))
    hub.faults.clear()
    right(locate(NAME))


def test_truncated_in_transit(hub):
    hub.faults[FILE] = "truncate"
    with pytest.raises(CheckpointError, match="broke after 150,000 of 300,000 bytes"):
        locate(NAME)
    hub.faults.clear()
    hub.sent = 0
    right(locate(NAME))
    assert hub.sent <= 150_000 + len(CONFIG)


@pytest.mark.parametrize("places", [[0.02], [0.5], [0.999], [0.1, 0.4, 0.9, 0.91, 0.92]])
def test_cut_and_taken_up_again(hub, places):
    hub.faults[FILE] = ("cut", list(places))
    right(locate(NAME))
    assert hub.sent == len(BODY) + len(CONFIG)  # no byte twice
    assert [row[2] for row in hub.log if row[0] == "GET" and FILE in row[1]][1] == f"bytes={int(300_000 * places[0])}-"


@pytest.mark.parametrize("place", [0.02, 0.5, 0.999])
def test_cut_where_range_is_ignored(hub, place):
    hub.faults[FILE] = ("cut, no range", [place])
    right(locate(NAME))
    assert hub.sent == len(BODY) + int(300_000 * place) + len(CONFIG)


def test_half_a_file_of_the_run_before_is_taken_up(hub):
    half = blob().with_name(f"{SHA}.incomplete")
    half.parent.mkdir(parents=True)
    half.write_bytes(BODY[:200_000])
    right(locate(NAME))
    assert hub.sent == 100_000 + len(CONFIG)


@pytest.mark.parametrize("size", [200_000, 300_000, 400_000])
def test_half_a_file_of_something_else_is_dropped(hub, size):
    half = blob().with_name(f"{SHA}.incomplete")
    half.parent.mkdir(parents=True)
    half.write_bytes(bytes(size))
    right(locate(NAME))


def test_no_such_file(hub):
    with pytest.raises(CheckpointError, match=r"org/tiny has no modle.safetensors") as error:
        locate(f"{NAME}/modle.safetensors")
    assert FILE in error.value.fix


def test_no_such_repository(hub):
    with pytest.raises(CheckpointError, match="there is no repository google/vit-bas-patch16-224") as error:
        locate("hf:google/vit-bas-patch16-224")
    assert "hf:google/vit-base-patch16-224" in error.value.fix


def test_no_such_revision(hub):
    with pytest.raises(CheckpointError, match="has no revision v9"):
        locate(f"{NAME}@v9/{FILE}")


def test_gated(hub, monkeypatch):
    hub.gated.add(REPO)
    with pytest.raises(CheckpointError, match="accepted its terms") as error:
        locate(NAME)
    assert f"{hub.url}/{REPO}" in error.value.fix
    assert "HF_TOKEN" in error.value.fix
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    right(locate(NAME))
    assert hub.log[-1][3] == "Bearer hf_secret"


@pytest.mark.parametrize(
    ("fault", "message"),
    [("flip", "arrived damaged twice"), (("busy", 99), "is busy"), ("truncate", "whole"), (None, "has no model.saf"),
     (("size", 10**12), "more than the 32 GB")],
)  # fmt: skip
def test_messages_have_the_name_that_was_typed(hub, fault, message):
    hub.repos["timm/vit_small_patch16_224.dino"] = {FILE: BODY} if fault else {}
    hub.faults[FILE] = fault
    with pytest.raises(CheckpointError, match=message) as error:
        locate("vit/small:dino")
    assert "vit/small:dino" in error.value.what
    has_room = fault not in ("flip", ("size", 10**12))  # two hashes leave none for where it comes from
    assert not has_room or "timm:vit_small_patch16_224.dino" in error.value.what.replace("timm/", "timm:")


def test_a_repository_of_the_table_that_a_mirror_lacks(hub):
    with pytest.raises(CheckpointError, match="vit/small:dino: there is no repository timm/vit_small") as error:
        locate("vit/small:dino")
    assert "did you mean" not in error.value.fix


def test_busy_twice_then_right(hub):
    hub.faults[FILE] = ("busy", 2)
    right(locate(NAME))
    assert hub.sent == len(BODY) + len(CONFIG)


def test_busy_without_end(hub):
    hub.faults[FILE] = ("busy", 99)
    with pytest.raises(CheckpointError, match=r"busy or broken \(answer 503"):
        locate(NAME)


def test_a_redirect_to_another_host_is_refused(hub):
    with Hub({REPO: {FILE: BODY}}) as other:
        hub.faults[FILE] = ("redirect", f"{other.url.replace('127.0.0.1', 'localhost')}/{REPO}/resolve/main/{FILE}")
        with pytest.raises(CheckpointError, match="redirects to http://localhost:"):
            locate(NAME)
        assert not other.log
    assert hub.sent == 0


def test_a_redirect_on_the_same_server_is_followed(hub):
    hub.repos["org/new"], hub.renamed["org/old"] = hub.repos[REPO], "org/new"
    assert locate(f"hf:org/old/{FILE}").sha256 == SHA


def test_too_large(hub):
    hub.faults[FILE] = ("size", 10**12)
    with pytest.raises(CheckpointError, match=r"931.3 GB, more than the 32 GB"):
        locate(NAME)
    assert hub.sent == 0


def test_larger_than_announced(hub):
    hub.faults[FILE] = ("size", 1000)
    with pytest.raises(CheckpointError, match="larger than the 1,000 bytes that were announced; it was removed"):
        locate(NAME)
    assert not list(blob().parent.glob("*"))


def test_another_file_than_the_pinned_one(hub):
    right(locate(NAME))
    lock.save_pin(f"{NAME}/{FILE}", lock.Pin("0" * 64))
    with pytest.raises(CheckpointError, match=f"SHA-256 {SHA}, pinned {'0' * 64}; not fetched") as error:
        locate(NAME)
    assert "weights.lock" in error.value.fix
    assert not blob().exists()
    assert hub.sent == len(BODY) + len(CONFIG)


def test_no_space_is_known_before_a_byte(hub, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: namedtuple("Usage", "total used free")(1, 1, 2**20))
    with pytest.raises(CheckpointError, match="does not fit on the disk") as error:
        locate(NAME)
    assert "HF_HOME" in error.value.fix
    assert hub.sent == 0


def test_a_disk_that_gets_full(hub, monkeypatch):
    def full(server, remote, half, before, progress):
        half.write_bytes(BODY[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "receive_once", full)
        with pytest.raises(CheckpointError, match="does not fit on the disk"):
            locate(NAME)
    right(locate(NAME))
    assert hub.sent == len(BODY) - 1000 + len(CONFIG)


# ---------------------------------------------------------------- what is in the cache


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_cache_is_removed_and_fetched_again(hub, damage):
    right(locate(NAME))
    broken = {"flip": bytes([BODY[0] ^ 1]) + BODY[1:], "truncate": BODY[:1000], "empty": b""}[damage]
    blob().write_bytes(broken)
    hub.sent = 0
    again = right(locate(NAME))
    assert "was damaged and was removed" in again.reasons[0]
    assert hub.sent == len(BODY)


def test_a_damaged_cache_without_a_network(hub, monkeypatch):
    right(locate(NAME))
    blob().write_bytes(BODY[:1000])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=f"expected {SHA}"):
        locate(NAME)
    assert not blob().exists()


def test_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids") as error:
        locate(NAME)
    assert "vitrail fetch" in error.value.fix
    assert not hub.log
    monkeypatch.delenv("HF_HUB_OFFLINE")
    right(locate(NAME))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    right(locate(NAME))


def test_an_unreachable_hub_says_what_is_here(hub, monkeypatch):
    tiny = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    hub.repos[tiny] = {FILE: BODY}
    locate("vit/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert locate("vit/tiny").sha256 == SHA
    with pytest.raises(CheckpointError, match=r"127.0.0.1:9 cannot be reached \(Connection refused\)") as error:
        locate("vit/small")
    assert "vit/small (timm:vit_small_patch16_224.augreg_in21k_ft_in1k) is not on this machine" in error.value.what
    assert "on this machine: vit/tiny:augreg-in21k-1k; vitrail fetch vit/small --to FOLDER where" in error.value.fix


def test_a_server_without_hashes_is_pinned_as_it_came(hub):
    hub.faults[FILE] = "no etag"
    assert locate(NAME).sha256 == SHA
    asked = len(hub.log)
    assert locate(NAME).sha256 == SHA
    assert len(hub.log) == asked


def test_files_of_a_commit_stay_where_main_moves(hub):
    right(locate(NAME))
    hub.repos[REPO][FILE] = BODY[::-1]
    right(locate(NAME))
    assert locate(f"{NAME}@{hub.commit(REPO)}").sha256 == hashlib.sha256(BODY[::-1]).hexdigest()


# ---------------------------------------------------------------- licences


def test_a_licence_is_named_before_a_byte(hub):
    hub.licences[REPO] = "cc-by-nc-4.0"
    with pytest.raises(UsageError, match=r"not for commercial use.*nothing was fetched") as error:
        locate(NAME)
    assert "--accept-licence cc-by-nc-4.0" in error.value.fix
    assert hub.sent == 0
    with pytest.raises(UsageError, match="not mit"):
        locate(NAME, "mit")
    located = right(locate(NAME, "CC-BY-NC-4.0"))
    assert located.licence == "cc-by-nc-4.0"
    assert located.origin["licence"] == "cc-by-nc-4.0"
    assert right(locate(NAME)).licence == "cc-by-nc-4.0"  # it was accepted, and that is kept


def test_a_licence_of_the_table_costs_no_request(hub):
    with pytest.raises(
        UsageError,
        match=r"vit/base:mae \(timm:vit_base_patch16_224.mae\): the licence of these weights is cc-by-nc-4.0",
    ):
        locate("vit/base:mae")
    assert not hub.log


def test_repositories_whose_licence_is_known_by_their_name(hub):
    hub.repos["nvidia/segformer-b0"] = {FILE: BODY}
    with pytest.raises(UsageError, match="SegFormer"):
        locate("hf:nvidia/segformer-b0")


# ---------------------------------------------------------------- what is in a repository


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
        (["weird.pth", "README.md"], "weird.pth"),
    ],
)
def test_the_file_of_a_repository(hub, names, chosen):
    hub.repos["org/many"] = dict.fromkeys(names, BODY)
    assert locate("hf:org/many").files.name == chosen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.pth", "b.pth"], r"has 2 files of weights: a.pth, b.pth"),
        (["README.md"], "has no weights: there are README.md"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "has 2 files of weights"),
    ],
)
def test_a_repository_without_one_file(hub, names, message):
    hub.repos["org/many"] = dict.fromkeys(names, BODY)
    with pytest.raises(CheckpointError, match=message):
        locate("hf:org/many")


# ---------------------------------------------------------------- addresses


def test_an_address(hub):
    hub.files["vit.pth"] = BODY
    url = f"{hub.url}/files/vit.pth"
    located = locate(url)
    assert (located.kind, located.sha256, located.files.name) == ("url", SHA, "vit.pth")
    asked = len(hub.log)
    assert locate(url).sha256 == SHA
    assert len(hub.log) == asked
    located.files.write_bytes(b"x")
    assert locate(url).sha256 == SHA


def test_two_addresses_with_the_same_name(hub):
    hub.files |= {"a/vit.pth": BODY, "b/vit.pth": BODY[::-1]}
    assert locate(f"{hub.url}/files/a/vit.pth").sha256 == SHA
    assert locate(f"{hub.url}/files/b/vit.pth").sha256 != SHA
    assert locate(f"{hub.url}/files/a/vit.pth").sha256 == SHA


@pytest.mark.parametrize("fault", [("cut", [0.3, 0.6]), ("busy", 2)])
def test_faults_at_an_address(hub, fault):
    hub.files["vit.pth"], hub.faults["vit.pth"] = BODY, fault
    assert locate(f"{hub.url}/files/vit.pth").sha256 == SHA
    assert hub.sent == len(BODY)


def test_no_file_at_an_address(hub):
    with pytest.raises(CheckpointError, match="has no file there"):
        locate(f"{hub.url}/files/none.pth")


def test_the_hash_in_torchvisions_names_is_checked(hub, monkeypatch):
    from vitrail.weights.remote import address

    monkeypatch.setattr(address, "NAMED_BY_HASH", ("127.0.0.1",))
    hub.files |= {f"vit-{SHA[:8]}.pth": BODY, "vit-00000000.pth": BODY}
    located = locate(f"{hub.url}/files/vit-{SHA[:8]}.pth")
    assert located.files.parent == address.torch_folder()
    with pytest.raises(CheckpointError, match="expected 00000000"):
        locate(f"{hub.url}/files/vit-00000000.pth")


# ---------------------------------------------------------------- the rule of redirects, and the token


@pytest.mark.parametrize(
    ("url", "to", "allowed"),
    [
        ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co/b", True),
        ("https://huggingface.co/a", "https://cdn-lfs.huggingface.co/b", True),
        ("https://huggingface.co/a", "https://huggingface.co/b", True),
        ("https://huggingface.co/a", "http://huggingface.co/b", False),
        ("https://huggingface.co/a", "https://hf.co.evil.org/b", False),
        ("https://huggingface.co/a", "https://evilhf.co/b", False),
        ("https://huggingface.co/a", "file:///etc/passwd", False),
        ("https://mirror.org/a", "https://cas-bridge.xethub.hf.co/b", True),
        ("https://mirror.org/a", "https://elsewhere.org/b", False),
        ("http://127.0.0.1:80/a", "http://127.0.0.1:81/b", False),
    ],
)
def test_where_the_hub_may_redirect(url, to, allowed):
    assert Server(url, is_hub=True).may_redirect(url, to) is allowed


def test_where_others_may_redirect():
    github = Server("https://github.com/a/b/releases/download/v1/x.pth")
    assert github.may_redirect(github.url, "https://release-assets.githubusercontent.com/x")
    assert not github.may_redirect(github.url, "https://cas-bridge.xethub.hf.co/x")


def test_the_token_is_sent_to_its_own_host_alone():
    server = Server("https://huggingface.co", "secret", is_hub=True)
    assert "Authorization" in server.headers_for("https://huggingface.co/x")
    assert "Authorization" not in server.headers_for("https://cdn-lfs.huggingface.co/x")
    assert "Authorization" not in Server("http://mirror.org", "secret").headers_for("http://mirror.org/x")


def test_the_users_token_is_found(hub, monkeypatch, tmp_path):
    (tmp_path / "hf_home").mkdir()
    (tmp_path / "hf_home" / "token").write_text("of the login\n")
    assert hub_cache.read_token() == "of the login"
    monkeypatch.setenv("HF_TOKEN", "of the environment")
    assert hub_cache.read_token() == "of the environment"


# ---------------------------------------------------------------- many at once, odd settings


def test_many_at_once_fetch_once(hub):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: locate(NAME).sha256, range(4)))
    assert set(found) == {SHA}
    assert hub.sent == len(BODY) + len(CONFIG)


def test_a_cache_that_cannot_be_written(hub, own_folder, monkeypatch):
    (own_folder / "file").touch()
    monkeypatch.setenv("HF_HOME", str(own_folder / "file"))
    with pytest.raises(CheckpointError, match="cannot be written") as error:
        locate(NAME)
    assert "HF_HOME" in error.value.fix


def test_a_lock_that_cannot_be_written_is_no_obstacle(hub, own_folder, monkeypatch):
    (own_folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "file"))
    right(locate(NAME))
    right(locate(NAME))


@pytest.mark.parametrize("text", ["hf-mirror.com", "ftp://hf-mirror.com"])
def test_an_endpoint_that_is_no_address(hub, monkeypatch, text):
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(UsageError, match="HF_ENDPOINT is"):
        locate(NAME)
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    right(locate(NAME))


def test_a_proxy_of_the_environment_is_used(hub, monkeypatch):
    """The hub plays the proxy: it is asked for the whole address."""
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(CheckpointError):
        locate(NAME)
    assert hub.log[0][1] == "http://hub.invalid/api/models/org/tiny"


def test_the_bar_is_drawn_on_a_terminal_alone(hub, monkeypatch):
    import io
    import sys

    from vitrail.storage.printable import printable

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "__stderr__", terminal)
    right(locate(NAME))
    assert terminal.getvalue() == ""  # what the user sees is no terminal
    blob().write_bytes(b"")
    monkeypatch.setattr(sys, "stderr", terminal)
    right(locate(NAME))
    assert f"{REPO}/{FILE}" in terminal.getvalue()
    assert printable("\x1b[") not in terminal.getvalue()
