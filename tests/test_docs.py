"""Documentation is executed: every command and every piece of Python in it."""

import contextlib
import io
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import must
from range_server import serve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page):
    lines = [
        line[2:].partition("#")[0].strip()
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return [line for line in lines if line.startswith("vitrail ")]


def photos(folder):
    """A folder of class folders with photographs of noise."""
    rng = np.random.default_rng(0)
    for name, colour in (("moss", (30, 120, 30)), ("sand", (200, 180, 120))):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            noise = rng.integers(-20, 20, (40, 48, 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(folder / name / f"{i}.jpg")


def python(code, folder):
    """What a piece of Python prints. In this process, as are the commands, since many imports of torch would take
    minutes."""
    (folder / "piece.py").write_text(code)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(folder / "piece.py"))
    return out.getvalue()


def test_readme_from_top_to_bottom(own_folder):
    """In the order of the page: the commands as they stand, then the Python."""
    photos(own_folder / "path/to/my/photos")
    photos(own_folder / "more/images")
    Image.new("L", (28, 28), 90).save("image.jpg")
    found = commands("README.md")
    assert len(found) >= 6
    for line in found:
        words = shlex.split(line)[1:]
        if words[:3] == ["train", "--data", "path/to/my/photos"]:
            words += ["--steps", "2"]  # the whole of it would take a minute
        if words[:5] == ["train", "--data", "mini", "--model", "vit/nano"]:
            words += ["--data.fraction", "0.1"]  # likewise
        must(*words)
    (code,) = blocks("README.md", "python")
    assert python(code, own_folder).startswith("17.56")


def published(file):
    """A file as timm would write it, with numbers of chance."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), file)


def autoencoder(folder):
    """What the folder of an autoencoder holds, with weights of chance."""
    diffusers = pytest.importorskip("diffusers", reason="autoencoders need diffusers")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
    ).save_pretrained(folder)  # fmt: skip


SLOW = [
    pytest.param(page, marks=pytest.mark.slow)
    for page in (
        "docs/dense.md",
        "docs/export.md",
        "docs/generation.md",
        "docs/images_and_words.md",
        "docs/looking.md",
        "docs/transfer.md",
        "docs/weights.md",
        "docs/without_labels.md",
    )
]


def tables(folder):
    """The tables of docs/data.md, and their images."""
    photos(folder / "photos")
    names = [p.relative_to(folder).as_posix() for p in sorted((folder / "photos").rglob("*.jpg"))]
    (folder / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 9, 9)).save(folder / f"images/{i:04x}.png")
    for name, head, row in (
        ("table.csv", "id_code,kind", lambda i: f"{i:04x},{i % 2}"),
        ("parts.csv", "path,label,fold", lambda i: f"{names[i]},{'ab'[i % 2]},{'train' if i < 6 else 'test'}"),
        ("several.csv", "path,tags", lambda i: f'{names[i]},"{("a,b", "a", "b,c")[i % 3]}"'),
    ):
        (folder / name).write_text("\n".join([head, *map(row, range(8))]) + "\n")


@pytest.mark.parametrize("page", ["docs/data.md", "docs/python.md", *SLOW])
def test_pages_from_top_to_bottom(page, own_folder):
    photos(own_folder / "path/to/my/photos")
    photos(own_folder / "more/images")
    Image.new("L", (28, 28), 90).save("image.jpg")
    if page == "docs/weights.md":
        published(own_folder / "vit_tiny.safetensors")
    if page == "docs/data.md":
        tables(own_folder)
    if page == "docs/without_labels.md":
        photos(own_folder / "classes")
        (own_folder / "classes" / "moss").rename("photos")  # without class folders
    if page == "docs/generation.md":
        autoencoder(own_folder / "path/to/vae")
    found = commands(page)
    assert found
    text = (ROOT / page).read_text(encoding="utf-8")
    python_first = 0 <= text.find("```python") < text.find("```console")
    for code in blocks(page, "python") if python_first else ():
        python(code, own_folder)
    for line in found:
        words = shlex.split(line)[1:]
        if words[:3] == ["train", "--data", "emoji"]:
            words += ["--steps", "2", "--img-size", "16", "16"]  # the whole of it takes minutes
        must(*words)
    for code in () if python_first else blocks(page, "python"):
        python(code, own_folder)


@pytest.mark.slow
def test_the_page_on_shards_from_top_to_bottom(own_folder, monkeypatch):
    """The store is one on this machine; each training ends after two steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    photos(own_folder / "photos")
    must("pack", "photos", "--out", "downloaded-shards")
    (own_folder / "downloaded-shards" / "index.safetensors").unlink()
    found = commands("docs/shards.md")
    assert len(found) >= 4
    found = [line.replace("--workers 8", "--workers 1") for line in found]
    with serve(own_folder / "shards") as store:
        for line in found:
            words = shlex.split(re.sub(r"https://data\.example\.org/\S*/shards/", store.url, line))[1:]
            must(*words, *(("--steps", "2") if words[0] == "train" else ()))
        assert store.asked


def test_the_example_runs_from_its_first_cell_to_its_last(own_folder):
    """As code, since a notebook's own libraries need not be installed."""
    must(*shlex.split("train --data mini --model vit/nano --steps 3 --train.eval-every 0 --out runs/mini --quiet"))
    cells = json.loads((ROOT / "examples/look_inside.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    said = python("\n".join(code), own_folder)
    for piece in ("has softmax attention", "Mean attention distance", "direct neighbours", "CKA of", "The gradient is"):
        assert piece in said


def test_a_family_can_be_added_as_the_page_says(tmp_path, monkeypatch):
    import torch

    import vitrail

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/pooled.py").write_text(blocks("docs/add_a_family.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    model = vitrail.create("mine.pooled/tiny", classes=10, width=96)
    assert model(torch.randn(2, 3, 32, 40)).shape == (2, 10)
    assert vitrail.cost(model).macs > 0
    with pytest.raises(ValueError, match="base"):
        vitrail.create("mine.pooled/bse")


def test_a_task_can_be_added_as_the_page_says(tmp_path, monkeypatch):
    import importlib

    import torch

    import vitrail
    from vitrail.types import Batch

    (tmp_path / "rotation.py").write_text(blocks("docs/add_a_task.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("rotation")
    task = module.build(module.Config())
    model = task.assemble(vitrail.backbone("vit/nano", size=(24, 24), channels=1))
    images = torch.randn(3, 1, 24, 24)
    assert task.learns_from("boxes")
    assert task.loss(model, Batch(images, task.targets(torch.zeros(3))))["rotation"].ndim == 0
    row = task.evaluator().row(model, images, torch.zeros(3), torch.arange(3).numpy())
    assert torch.allclose(row[1], task.predict(model, torch.rot90(images[1:2], 1, (2, 3)))[0], atol=1e-6)


def test_a_layout_can_be_added_as_the_page_says(tmp_path, monkeypatch):
    import importlib

    from vitrail.data.survey.images import survey_images

    (tmp_path / "squares.py").write_text(blocks("docs/add_a_dataset.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("squares")
    assert module.matches("squares")
    assert survey_images(module.build(module.Config())).images == {"train": 64, "val": 64}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_room_is_on_the_floor_plan():
    plan = (ROOT / "docs/house.md").read_text(encoding="utf-8")
    rooms = {p.stem for p in (ROOT / "vitrail").iterdir() if p.suffix == ".py" or p.is_dir()} - {"__pycache__"}
    assert [r for r in sorted(rooms) if not re.search(rf"\b{r}\b", plan)] == []


def test_make_demo_says_a_command_that_there_is(monkeypatch):
    recipe = re.search(
        r"^demo:.*\n\t\$\(BIN\)/vitrail (.*?) \$\(if", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert recipe
    monkeypatch.chdir(ROOT)
    assert "nothing was written" in must(*shlex.split(recipe.group(1)), "--dry-run")


def test_every_public_name_is_documented():
    import vitrail

    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    table = page[page.index("## The public names") :]
    assert [name for name in vitrail.__all__ if f"`vitrail.{name}" not in table] == []
