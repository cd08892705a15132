"""What a typed name of weights means, the table that knows them, and licences. Nothing is asked here."""

import pytest
import torch

from vitrail import catalog
from vitrail.assembly.model import create_model
from vitrail.errors import CheckpointError, UsageError, VitrailError
from vitrail.recipe import Choice
from vitrail.weights.identify import identify
from vitrail.weights.load import choose_source, required_tensors
from vitrail.weights.published import load_table
from vitrail.weights.read import RawWeights
from vitrail.weights.remote import licences, lock
from vitrail.weights.remote.lock import Pin
from vitrail.weights.remote.names import parse_name
from vitrail.weights.remote.table import read_table, rows_of

TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
MEANT = {
    "vit/small": "vit/small:augreg-in21k-1k",
    "vit/small:augreg-in21k-1k": "vit/small:augreg-in21k-1k",
    f"hf:{TINY}": f"hf:{TINY}",
    TINY: f"hf:{TINY}",
    f"hf-hub:{TINY}": f"hf:{TINY}",
    f"hf://{TINY}": f"hf:{TINY}",
    "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k": f"hf:{TINY}",
    "timm:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k": f"hf:{TINY}",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": f"hf:{TINY}",
    "timm:crossvit_9_240": "hf:timm/crossvit_9_240.in1k",
    "crossvit_9_240": "hf:timm/crossvit_9_240.in1k",
    "timm:not_in_the_table.yet": "hf:timm/not_in_the_table.yet",
    "google/vit-base-patch16-224": "hf:google/vit-base-patch16-224",
    "Google/ViT-base-patch16-224": "hf:google/vit-base-patch16-224",
    "google/vit-large-patch32-384": "hf:google/vit-large-patch32-384",  # not in the table; its name says what it is
    "hf:org/repo@v1": "hf:org/repo@v1",
    "hf:org/repo@refs/pr/3/sub/file.pt": "hf:org/repo@refs/pr/3/sub/file.pt",
    "torchvision:vit_b_16": "torchvision:vit_b_16.IMAGENET1K_V1",  # SWAG's are not for everybody
    "torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1": "torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1",
    "torchvision:ViT_B_16_Weights.IMAGENET1K_V1": "torchvision:vit_b_16.IMAGENET1K_V1",
    "torchvision:ResNet50_Weights.DEFAULT": "torchvision:resnet50.IMAGENET1K_V2",
    "swin_t": "torchvision:swin_t.IMAGENET1K_V1",
    "https://example.org/a/vit.pth": "https://example.org/a/vit.pth",
    "https://huggingface.co/org/repo": "hf:org/repo",
    "https://huggingface.co/org/repo/tree/main": "hf:org/repo",
    "https://huggingface.co/org/repo/resolve/v2/a/m.pth?download=true": "hf:org/repo@v2/a/m.pth",
}


@pytest.fixture(autouse=True)
def nothing_here(own_folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))


@pytest.mark.parametrize("typed", MEANT)
def test_what_a_name_means(typed):
    reference = parse_name(typed)
    assert reference.name == MEANT[typed]
    assert parse_name(reference.name).name == MEANT[typed]


REFUSED = {
    "vit/smal": "did you mean vit/small",
    "vit/small:nothing": "did you mean vit/small:augreg-in21k-1k",
    "vit_base_patch16_224": "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "timm:vit_base_patch16_224": "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "resnet50": "torchvision:resnet50.IMAGENET1K_V1",
    "dinov2": "vit/small:dinov2",
    "vit/small:dinov3": "did you mean dinov3/small?",
    "vit/huge:dinov3-plus": "did you mean dinov3/huge_plus?",
    "vit/large:siglip2-384": "did you mean siglip/large_384?",
    "vit/base:clip": "did you mean clip/base?",
    "siglip": "did you mean siglip/base, siglip/base_256, siglip/large_256?",
    "sam": "did you mean samvit/base, samvit/large, samvit/huge?",
    "clip/bas": "did you mean clip/base?",
    "jit/base_16": "of jit none are known by name",
    "torchvision:vit_b_17": "torchvision:vit_b_16",
    "hf:nothing": "hf:ORG/REPO",
    "hf:../../etc": "hf:ORG/REPO",
    "hf:org/repo/../x": "hf:ORG/REPO",
    "http://example.org/vit.pth": "https://example.org/vit.pth",
    "https://example.org/page.html": ".safetensors",
    "org/no-model-of-ours": "hf:org/no-model-of-ours",
    "runs/nothere": "hf:runs/nothere",
    "nothere": "vitrail weights lists",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_no_name(typed):
    with pytest.raises(VitrailError) as error:
        parse_name(typed)
    assert REFUSED[typed] in str(error.value)
    assert error.value.fix.count("did you mean") <= 1


def test_the_disk_comes_first(own_folder):
    (own_folder / "vit" / "small").mkdir(parents=True)
    assert parse_name("vit/small").kind == "folder"
    assert "published weights of that name" in parse_name("vit/small").why
    (own_folder / "runs" / "first").mkdir(parents=True)
    for name in ("recipe.toml", "run.json"):
        (own_folder / "runs" / "first" / name).touch()
    assert parse_name("first").kind == "run"
    assert parse_name("runs/first").kind == "run"
    with pytest.raises(CheckpointError, match="there is no run firts") as error:
        parse_name("firts")
    assert "first" in error.value.fix


def test_a_misspelt_path_is_no_repository(own_folder):
    (own_folder / "weights").mkdir()
    with pytest.raises(CheckpointError):
        parse_name("weights/vit-base-patch16-224")


# ---------------------------------------------------------------- the table


def test_rows_are_models_of_ours_and_their_formats_are_known():
    rows, models = read_table(), catalog.list_names("models")
    assert 140 <= len(rows) <= 260
    assert len({row.name for row in rows}) == len({row.source for row in rows}) == len(rows)
    for row in rows:
        assert row.model in models, row.name
        whole = row.name.partition(":")[2].startswith(("detr-", "segmenter-", "upernet-"))
        assert whole or row.format in load_table(row.model.partition("/")[0]).sources, row.name
        assert bool(row.repo) != bool(row.url), row.name
        assert len(row.mean) == len(row.std) == 3
        assert row.licence == row.licence.lower()
    for model in {row.model for row in rows}:
        assert [row.recommended for row in rows if row.model == model] == [True] + [False] * (
            sum(row.model == model for row in rows) - 1
        )


def test_every_family_with_weights_is_reached_by_its_models():
    """`vitrail weights FAMILY` lists what FAMILY/VARIANT and FAMILY/VARIANT:TAG mean."""
    for family in {row.model.partition("/")[0] for row in read_table()}:
        rows = rows_of(family)
        assert rows
        for row in rows:
            assert parse_name(row.name).row == row
            assert parse_name(row.model).row.model == row.model
            assert rows_of(row.model)[0].recommended
    assert {row.model.partition("/")[0] for row in read_table()} == set(catalog.list_modules("models")) - {"jit"}


def test_the_recommended_may_be_used_by_all_where_such_exist():
    for row in read_table():
        others = [r for r in read_table() if r.model == row.model and licences.is_permissive(r.licence)]
        assert not row.recommended or licences.is_permissive(row.licence) or not others


def test_timms_own_table_says_the_same():
    timm = pytest.importorskip("timm")
    checked = 0
    for row in read_table():
        if not row.repo.startswith("timm/"):
            continue
        theirs = timm.get_pretrained_cfg(row.repo.removeprefix("timm/"))
        assert (theirs.crop_pct, theirs.interpolation) == (row.crop_ratio, row.interpolation), row.name
        assert (theirs.mean, theirs.std, theirs.license) == (row.mean, row.std, row.licence), row.name
        assert (theirs.num_classes, theirs.input_size[1:]) == (row.classes, row.size), row.name
        checked += 1
    assert checked > 100


@pytest.mark.slow
def test_every_row_of_timms_is_read_as_its_model():
    """By names and shapes alone: nothing is left over, and nothing is missing but heads."""
    timm = pytest.importorskip("timm")
    for row in read_table():
        if not row.repo.startswith("timm/"):
            continue
        with torch.device("meta"):
            state = timm.create_model(row.repo.removeprefix("timm/")).state_dict()
            found = identify(state, None, Choice(row.model, dict(row.keys)))
            ours = create_model(found.model.name, found.outputs or 1, dict(found.model.keys))
            tables = load_table(row.model.partition("/")[0]).sources
            chosen = choose_source(ours, RawWeights(state, {}, ""), tables)
        needed = {n: t.shape for n, t in required_tensors(ours).items() if found.outputs or not n.startswith("heads.")}
        assert found.model.name == row.model, row.name
        assert found.outputs == row.classes, row.name
        counters = ".num_batches_tracked"  # of batch norms: optional in a file
        assert {n: t.shape for n, t in chosen.tensors.items() if not n.endswith(counters)} == needed, row.name
        assert not chosen.unknown, row.name


def test_torchvisions_own_table_says_the_same():
    models = pytest.importorskip("torchvision").models
    for row in read_table():
        if row.torchvision:
            architecture, _, name = row.torchvision.partition(".")
            theirs = models.get_model_weights(architecture)[name]
            assert theirs.url == row.url
            assert theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] == row.top1
            assert theirs.meta["num_params"] == row.parameters or row.model.startswith("swin_v2"), row.name


# ---------------------------------------------------------------- licences and the lock


def test_licences():
    licences.check_licence("apache-2.0", "", "x")
    licences.check_licence("", "", "x")
    with pytest.raises(UsageError, match=r"no\.such-licence"):
        licences.check_licence("no.such-licence", "", "x")
    licences.check_licence("no.such-licence", "mit, No.Such-Licence", "x")
    assert licences.licence_of_repo("apple/mobilevit-small", "other") == "apple-ascl"
    assert licences.licence_of_repo("org/x", "MIT") == "mit"


def test_every_restricted_licence_of_the_table_is_described():
    for row in read_table():
        assert licences.is_permissive(row.licence) or row.licence in licences.RESTRICTED, row.name


def test_the_lock_of_the_folder_is_used_where_there_is_one(own_folder):
    pin = Pin("ab" * 32, 10, "c" * 40, "mit")
    lock.save_pin("hf:a/b/c", pin)
    assert lock.lock_path() == own_folder / "cache" / "vitrail" / "weights.lock"
    assert lock.find_pin("hf:a/b/c") == pin
    (own_folder / "weights.lock").touch()
    assert lock.find_pin("hf:a/b/c") is None
    lock.save_pin("hf:a/b/c", pin)
    assert "Remove a table" in (own_folder / "weights.lock").read_text()


@pytest.mark.parametrize("text", ["x = [", "[a]\nsha256 = 3", "[a]\nsha256 = 'xyz'", "a = 1", "[a]\nsize = 'b'"])
def test_a_damaged_lock_is_named(own_folder, text):
    (own_folder / "weights.lock").write_text(text)
    with pytest.raises(CheckpointError, match=r"weights\.lock"):
        lock.find_pin("a")
