"""Runs, models and imports that begin with published weights by name, from an empty cache and then without a hub."""

import hashlib
import json

import pytest
import tiny
import torch

import vitrail
from vitrail.assembly import pretrained
from vitrail.assembly.load import load_bundle
from vitrail.assembly.run_directory import RunFolder
from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import InitConfig
from vitrail.weights.locate import locate
from vitrail.weights.remote import folder, lock

REPO = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
NAME = "vit/tiny:augreg-in21k-1k"
SMALL = "org/small"
NAME_OF_SMALL = f"hf:{SMALL}"


@pytest.fixture(scope="module")
def theirs():
    """timm's model, and the files that timm writes of it."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.05)
    pretrained = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "input_size": [3, 32, 32],
    }
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "pretrained_cfg": pretrained}
    return net, {"model.safetensors": save(net.state_dict()), "config.json": json.dumps(config).encode()}


@pytest.fixture
def started(hub, theirs):
    hub.repos[REPO] = theirs[1]
    return hub


@pytest.fixture(scope="module")
def files_of_a_small_one():
    timm = pytest.importorskip("timm")
    from safetensors.torch import save

    keys = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}
    net = timm.create_model("vit_tiny_patch16_224", **keys, num_classes=7)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7, "model_args": keys}
    return {"model.safetensors": save(net.state_dict()), "config.json": json.dumps(config).encode()}


@pytest.fixture
def small(hub, files_of_a_small_one):
    hub.repos[SMALL] = files_of_a_small_one
    return hub


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tiny.images(tmp_path_factory.mktemp("photos"), each=8, size=32)


WORDS = [
    "--img-size",
    "32",
    "--steps",
    "1",
    "--batch-size",
    "4",
    "--runtime.workers",
    "0",
    "--precision",
    "fp32",
    "--init.no-fit-head",
]


def train(photos, weights, out, *more):
    return main(["train", "--data", str(photos), "--weights", weights, "--out", str(out), *WORDS, *more])


def test_a_run_begins_with_weights_by_name(started, photos, own_folder, capsys):
    assert train(photos, "vit/tiny", own_folder / "a") == 0
    text = capsys.readouterr().out
    assert f"vit/tiny stands for {NAME}, the recommended one" in text
    assert "MB were fetched" in text
    assert "licence apache-2.0" in text
    run = RunFolder(own_folder / "a")
    assert run.recipe().init.weights == NAME
    assert run.recipe().model.name == "vit/tiny"
    assert run.recipe().input.mean == (0.5, 0.5, 0.5)
    origin = run.about()["origin"]
    assert origin["source"] == f"timm:{REPO[5:]}"
    assert origin["revision"] == started.commit(REPO)
    assert origin["licence"] == "apache-2.0"
    assert origin["sha256"] == lock.find_pin(f"hf:{REPO}/model.safetensors").sha256
    assert load_bundle(own_folder / "a")[0].origin == origin  # it is in the file of weights
    assert origin["sha256"] in (own_folder / "a" / "report.html").read_text()

    started.shutdown()  # then the same without a hub, and what is made from the run keeps its origin
    started.server_close()
    asked = len(started.log)
    assert train(photos, "vit/tiny", own_folder / "b") == 0
    assert "it was on this machine" in capsys.readouterr().out
    assert len(started.log) == asked
    a, b = (load_bundle(own_folder / name)[0].model.state_dict() for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_weights_that_cannot_be_had_begin_no_run(started, photos, own_folder, capsys):
    started.faults["model.safetensors"] = "flip"
    assert train(photos, "vit/tiny", own_folder / "a") == 4
    text = " ".join(capsys.readouterr().err.split())
    assert "vit/tiny: model.safetensors arrived damaged twice" in text
    assert f"expected {hashlib.sha256(started.repos[REPO]['model.safetensors']).hexdigest()}" in text  # is not cut off
    sent = started.sent
    assert train(own_folder / "no photos", "vit/tiny", own_folder / "a") == 3
    assert started.sent == sent  # nothing is fetched for data that is not there
    capsys.readouterr()
    assert train(photos, "vit/base:mae", own_folder / "a") == 2
    assert "--accept-licence cc-by-nc-4.0" in capsys.readouterr().err
    assert train(photos, "vit/tinny", own_folder / "a") == 4
    assert "did you mean vit/tiny" in capsys.readouterr().err
    assert train(photos, "vit/tiny", own_folder / "a", "--model", "vit/small") == 4
    assert not (own_folder / "a").exists()
    assert not (own_folder / "runs").exists()


@pytest.mark.parametrize("name", ["vit/tiny", NAME, f"hf:{REPO}", f"timm:{REPO[5:]}", NAME_OF_SMALL])
def test_weights_of_others_are_no_model_to_predict_with(started, files_of_a_small_one, name):
    """What is answered instead works as it is printed."""
    started.repos[SMALL] = files_of_a_small_one
    with pytest.raises(CheckpointError, match="are weights of another library") as error:
        vitrail.load(name)
    assert error.value.what.startswith(name)
    assert error.value.fix.startswith(f"vitrail import {name} --out FOLDER makes one")
    assert f"vitrail train --data FOLDER --weights {name}" in error.value.fix
    assert bool(started.sent) == (name == NAME_OF_SMALL)  # that a table knows is not fetched for this answer


def test_a_licence_is_accepted_with_a_flag_and_kept_with_whatever_is_made(small, photos, own_folder):
    small.licences[SMALL] = "cc-by-nc-4.0"
    assert train(photos, NAME_OF_SMALL, own_folder / "a") == 2
    assert train(photos, NAME_OF_SMALL, own_folder / "a", "--accept-licence", "cc-by-nc-4.0") == 0
    origin = load_bundle(own_folder / "a")[0].origin
    assert (origin["licence"], origin["source"]) == ("cc-by-nc-4.0", NAME_OF_SMALL)
    assert main(["train", "--resume", str(own_folder / "a"), "--steps", "2", "--allow-change", "train.steps"]) == 0
    assert load_bundle(own_folder / "a")[0].origin == origin
    vitrail.save(vitrail.load(own_folder / "a"), own_folder / "saved")
    run = vitrail.train(photos, weights=str(own_folder / "saved"), out=own_folder / "b", steps=1, quiet=True)
    assert RunFolder(run.path).about()["origin"] == origin
    assert load_bundle(own_folder / "b")[0].origin == origin


def test_a_run_begins_with_weights_in_several_files(hub, files_of_a_small_one, photos, own_folder):
    from safetensors.torch import load, save

    tensors = load(files_of_a_small_one["model.safetensors"])
    parts = {f"model-{i}.safetensors": list(tensors)[i::2] for i in range(2)}
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    files = {file: save({name: tensors[name] for name in names}) for file, names in parts.items()}
    hub.repos[SMALL] = {**files, "model.safetensors.index.json": json.dumps(index).encode(),
                        "config.json": files_of_a_small_one["config.json"]}  # fmt: skip
    assert train(photos, NAME_OF_SMALL, own_folder / "a") == 0
    asked = len(hub.log)
    assert main(["import", NAME_OF_SMALL, "--out", "m"]) == 0
    assert len(hub.log) == asked
    origin = load_bundle(own_folder / "m")[0].origin
    assert origin["sha256"] == load_bundle(own_folder / "a")[0].origin["sha256"] == locate(NAME_OF_SMALL).sha256


def test_resuming_refuses_other_weights_than_the_run_began_with(small):
    origin = pretrained.find_weights(InitConfig(NAME_OF_SMALL))
    pretrained.check_same(origin, origin.about)
    pretrained.check_same(origin, {})
    with pytest.raises(CheckpointError, match="another file now"):
        pretrained.check_same(origin, {"sha256": "0" * 64})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "has no weights: there are notes.txt"),
        ([], "it is empty"),
        (["a.pth", "b.pth"], "has 2 files of weights: a.pth, b.pth"),
    ],
)
def test_a_folder_without_weights(hub, photos, own_folder, names, message, capsys):
    (own_folder / "place").mkdir()
    for name in names:
        (own_folder / "place" / name).touch()
    assert train(photos, "place", own_folder / "a") == 4
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (own_folder / "a").exists()


# ---------------------------------------------------------------- Python


def test_create_with_weights(started, theirs):
    images = torch.rand(2, 3, 32, 32)
    net = vitrail.create("vit/tiny", weights=True)
    expected = theirs[0](images)
    assert torch.allclose(net.eval()(images), expected, atol=1e-5 * expected.abs().max().item())
    for weights in (NAME, f"hf:{REPO}", f"timm:{REPO[5:]}"):
        assert locate(weights).sha256 == locate("vit/tiny").sha256
    assert vitrail.create("vit/tiny", classes=5, weights=True)(images).shape == (2, 5)
    features = vitrail.backbone("vit/tiny", weights=True).eval()(images)
    assert torch.allclose(features.summaries[0], net.backbone(images).summaries[0])


def test_a_model_with_weights_is_saved_with_their_origin(started, own_folder):
    net = vitrail.create("vit/tiny", weights=True)
    saved = vitrail.load(vitrail.save(net, own_folder / "m"))
    assert saved.origin["licence"] == "apache-2.0"
    assert saved.recipe.input.crop_ratio == 0.9
    assert saved.recipe.input.size == (32, 32)


def test_python_is_refused_as_the_command_is(started):
    with pytest.raises(UsageError, match="no weights of vit/nano are published"):
        vitrail.create("vit/nano", weights=True)
    with pytest.raises(UsageError, match=r"--accept-licence cc-by-nc-4\.0"):
        vitrail.create("vit/base", weights="vit/base:mae")
    with pytest.raises(CheckpointError, match="weights of vit/tiny"):
        vitrail.create("vit/small", weights="vit/tiny")
    with pytest.raises(UsageError, match="weights=True"):
        vitrail.create("vit/tiny", pretrained=True)


# ---------------------------------------------------------------- import, fetch, weights


def test_import_by_name(started, files_of_a_small_one, own_folder, capsys):
    assert main(["import", "vit/tiny"]) == 0
    assert "written     vit-tiny-augreg-in21k-1k" in capsys.readouterr().out
    bundle, _ = load_bundle(own_folder / "vit-tiny-augreg-in21k-1k")
    assert bundle.origin["licence"] == "apache-2.0"
    assert bundle.origin["revision"] == started.commit(REPO)
    assert len(bundle.classes) == 1000
    assert main(["import", "vit/tiny"]) == 2
    assert "never overwritten" in capsys.readouterr().err
    started.repos[SMALL] = files_of_a_small_one
    assert main(["import", NAME_OF_SMALL]) == 0
    assert "written     small" in capsys.readouterr().out
    assert main(["import", NAME_OF_SMALL, "--out", "other", "--licence", "mine"]) == 0
    assert load_bundle(own_folder / "other")[0].origin["licence"] == "mine"


def fetched(capsys, *words):
    code = main(["fetch", *words])
    return code, capsys.readouterr()


def test_a_folder_for_machines_without_a_network(small, photos, own_folder, monkeypatch, capsys):
    code, shown = fetched(capsys, NAME_OF_SMALL, "--to", "carried")
    assert code == 0
    assert "VITRAIL_WEIGHTS=" in shown.out
    files = sorted(
        p.relative_to(own_folder / "carried").as_posix() for p in (own_folder / "carried").rglob("*") if p.is_file()
    )
    inside = SMALL.replace("/", "--")
    assert [f for f in files if not f.startswith(".")] == [
        f"{inside}/config.json", f"{inside}/model.safetensors", "weights.lock"
    ]  # fmt: skip
    asked = len(small.log)
    assert fetched(capsys, NAME_OF_SMALL, "--to", "carried")[0] == 0
    assert len(small.log) == asked

    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "carried"))
    monkeypatch.setenv("HF_HOME", str(own_folder / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "empty too"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert train(photos, NAME_OF_SMALL, own_folder / "a") == 0
    assert load_bundle(own_folder / "a")[0].origin["revision"] == small.commit(SMALL)
    capsys.readouterr()
    assert train(photos, "vit/small", own_folder / "b") == 4
    assert "cannot be reached" in capsys.readouterr().err

    path = own_folder / "carried" / inside / "model.safetensors"
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert train(photos, NAME_OF_SMALL, own_folder / "b") == 4
    error = capsys.readouterr().err
    assert "is not the file that it should be" in error
    assert path.exists()  # it is the user's own


def test_a_file_that_somebody_brought_by_hand(started, theirs, own_folder, monkeypatch):
    place = own_folder / "usb" / "timm" / REPO[5:]
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(theirs[1]["model.safetensors"])
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "usb"))
    vitrail.create("vit/tiny", weights=True)
    assert not started.log
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "not there"))
    with pytest.raises(UsageError, match="no such folder"):
        vitrail.create("vit/tiny", weights=True)


def test_hub_mirror_and_file_give_the_same_folder(started, own_folder, monkeypatch, capsys):
    from fakehub import Hub

    def tree(name):
        top = own_folder / name
        return {p.relative_to(top): p.read_bytes() for p in top.rglob("*") if p.is_file()}

    assert fetched(capsys, "vit/tiny", "--to", "one")[0] == 0
    with Hub({REPO: started.repos[REPO]}) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        monkeypatch.setenv("HF_HOME", str(own_folder / "empty"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "empty too"))
        assert fetched(capsys, "vit/tiny", "--to", "two")[0] == 0
        assert mirror.log
    monkeypatch.setenv("VITRAIL_WEIGHTS", str(own_folder / "one"))
    monkeypatch.setenv("HF_HOME", str(own_folder / "third"))
    assert fetched(capsys, "vit/tiny", "--to", "three")[0] == 0
    assert tree("one") == tree("two") == tree("three")
    assert folder.weights_folder() == own_folder / "one"


def test_fetch_says_what_it_could_not(started, own_folder, capsys):
    code, shown = fetched(capsys, "vit/tiny", "vit/base:mae", "vit/tinny", "--to", "carried")
    assert (code, started.sent) == (4, 0)
    assert "did you mean vit/tiny" in shown.err
    code, shown = fetched(capsys, "vit/base:mae", "--to", "carried")
    assert code == 2
    assert "accept-licence cc-by-nc-4.0" in shown.err
    assert not (own_folder / "carried").exists()


def test_the_list_of_weights(started, own_folder, capsys):
    assert main(["weights", "vit/tiny"]) == 0
    text = capsys.readouterr().out
    assert NAME in text
    assert "75.45" in text
    assert "apache-2.0" in text
    assert not started.log
    vitrail.create("vit/tiny", weights=True)
    capsys.readouterr()
    assert main(["weights", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) > 140
    assert rows[NAME]["here"] is True
    assert rows[NAME]["recommended"] is True
    assert rows[NAME]["bytes"] == len(started.repos[REPO]["model.safetensors"])
    assert rows["vit/small:dino"]["bytes"] is None
    assert main(["weights", "vit/tiny"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("vit/")}
    assert f" {len(started.repos[REPO]['model.safetensors']) / 1e6:,.0f} " in shown[NAME]
    assert " ~39 " in shown["vit/tiny:augreg-in21k"]
    assert rows["vit/small:dino"]["here"] is False
    assert rows["vit/base:mae"]["licence"] == "cc-by-nc-4.0"
    assert main(["weights", "vitt"]) == 2
    assert main(["weights", "vit/small:dino", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["vit/small:dino"]
    assert main(["weights", "jit"]) == 0
    assert "none" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_from_top_to_bottom(started, photos, own_folder):
    import shutil

    from test_docs import blocks, commands, python

    shutil.copytree(photos, own_folder / "path" / "to" / "my" / "photos")
    for line in commands("docs/weights_by_name.md"):
        assert main(line.split()[1:]) == 0, line
    for code in blocks("docs/weights_by_name.md", "python"):
        python(code, own_folder)


# ---------------------------------------------------------------- publishing


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("push") / "run"
    tiny_keys = ["--model", "vit/nano", "--model.depth", "1", "--model.width", "16", "--model.heads", "2"]
    assert main(["train", "--data", str(photos), *tiny_keys, "--out", str(out), *WORDS]) == 0
    return out


def test_create_with_the_weights_of_a_run(run):
    images = torch.rand(2, 3, 32, 32)
    trained = vitrail.load(run).model.eval()
    assert torch.equal(vitrail.create("vit/nano", weights=run).eval()(images), trained(images))
    assert vitrail.create("vit/nano", weights=str(run), classes=7)(images).shape == (2, 7)
    with pytest.raises(CheckpointError, match="weights of vit/nano, not of vit/small"):
        vitrail.create("vit/small", weights=run)


def test_nothing_is_sent_without_yes(hub, run, capsys):
    assert main(["push", str(run), "hf:me/first"]) == 0
    text = capsys.readouterr().out
    assert "nothing was sent" in text
    assert "no licence is stated" in text
    assert "library_name: " in text
    assert "2 classes: ant, bee." in text
    assert "| top1 |" in text
    assert " to " in text.split("| top1 |")[1].splitlines()[0]  # its interval
    assert "vitrail train --data FOLDER --weights hf:me/first" in text
    assert str(run.parent) not in text
    assert not hub.log


def test_what_was_published_is_loaded_by_its_name(hub, run, monkeypatch, own_folder, capsys):
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library.constants, "HF_HUB_DISABLE_XET", True)  # timm has imported it, and it reads that once
    assert main(["push", str(run), "hf:me/first", "--yes"]) == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["push", str(run), "hf:me/first", "--licence", "mit", "--yes"]) == 0, capsys.readouterr().err
    assert set(hub.repos["me/first"]) == {"README.md", "model.safetensors"}
    assert b'license: "mit"' in hub.repos["me/first"]["README.md"]
    ours, theirs = vitrail.load(run), vitrail.load("hf:me/first")
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True))
    assert theirs.classes == ("ant", "bee")


def test_the_licence_of_the_first_weights_holds_for_what_is_published(small, photos, own_folder, capsys):
    small.licences[SMALL] = "cc-by-nc-4.0"
    out = own_folder / "a"
    assert train(photos, NAME_OF_SMALL, out, "--accept-licence", "cc-by-nc-4.0") == 0
    capsys.readouterr()
    assert main(["push", str(out), "hf:me/a", "--licence", "mit"]) == 2
    assert "holds for them too" in capsys.readouterr().err
    assert main(["push", str(out), "hf:me/a"]) == 0
    text = capsys.readouterr().out
    assert 'license: "cc-by-nc-4.0"' in text
    assert f'base_model: "{SMALL}"' in text


def test_a_hub_that_is_not_reached_is_named(hub, run, monkeypatch, capsys):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "hf:me/first", "--yes"]) == 4
    text = " ".join(capsys.readouterr().err.split())
    assert "could not be published at http://127.0.0.1:9" in text
    assert "is that address reached from here" in text
    assert "hf_secret" not in text


@pytest.mark.parametrize("target", ["first", "hf:me", "hf:me/a@v1", "hf:me/a/b.txt"])
def test_what_is_no_repository_is_refused(hub, run, target, capsys):
    assert main(["push", str(run), target]) == 2
