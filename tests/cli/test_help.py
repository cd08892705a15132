"""Help is one screen, in the field's words, lists every key on demand, and imports nothing heavy."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from places import must, refused, vitrail

from vitrail import catalog
from vitrail.cli.main import COMMANDS, command
from vitrail.cli.syntax.arguments import own_flags, recipe_flags
from vitrail.cli.syntax.flags import FLAGS, KEYED, expand_short_flags, kind_of
from vitrail.cli.syntax.source import Sources, format_literal
from vitrail.recipe import CHOICES, SECTIONS, Recipe

SCREEN = 40  # lines
DIALECT = re.compile(
    r"\b(told|tells?|telling|said|says?|judg\w+|hir(e[ds]?|ing)|(lay|lays|laid|laying)[ _-]up|thaw\w*)\b", re.IGNORECASE
)


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_one_screen_in_standard_words(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = must(*([name] if name else []), "--help").splitlines()
    assert len(lines) <= SCREEN
    assert not DIALECT.findall("\n".join(lines))
    assert "picture" not in "\n".join(lines)
    examples = [line for line in lines if line.strip().startswith("vitrail ")]
    assert examples
    assert all(len(line) <= int(columns) or line in examples for line in lines)
    assert not [line for line in lines if "None" in line or "''" in line or "[FLOAT" in line]
    for example in (line.strip() for line in lines if name and line.startswith(f"  vitrail {name} ")):
        assert example.split()[1] == name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_flag(name):
    text = must(name, "--help")
    switches = {f"--no-{flag[2:]}" for flag in own_flags(command(name).kind)}
    for flag in own_flags(command(name).kind):
        assert flag in ("--help", *switches) or re.search(rf"--(no-)?{flag[2:]}\b", text), flag
    for flag in command(name).flags:
        assert f" {flag.flag} " in text


def test_the_flags_that_everybody_types_are_in_the_help_of_train():
    lines = must("train", "--help").splitlines()
    for flag in FLAGS:
        (line,) = (line for line in lines if re.match(rf"  (-\w, )?{flag.flag} ", line))
        assert len(line) <= 80
    assert sum(line.startswith("  vitrail train ") and "--help" not in line for line in lines) == 4


def test_every_flag_of_the_table_is_a_key_of_recipes():
    for flag in KEYED:
        section, key = flag.key
        assert section in SECTIONS
        assert section in CHOICES or key in {f.name for f in fields(getattr(Recipe(), section))}
        assert kind_of(flag.key)


def test_help_all_lists_every_key():
    text = must("train", "--help", "all")
    listed = set(re.findall(r"--[a-z]+\.[\w.-]+", text))
    assert set(recipe_flags()) <= listed
    assert "{None}" not in text
    assert "default: ''" not in text
    assert "default: None" not in text


def test_help_all_speaks_of_what_is_chosen():
    text = must("train", "--model", "swin/tiny", "--data", "mini", "--task", "classification", "--help", "all")
    assert re.search(r"--model\.depths INT INT INT INT .*\(default: 2 2 6 2\)", text)
    assert "--model.tokens" not in text
    assert "--task.smoothing" in text
    assert "--task.queries" not in text
    assert "--data.label-column" not in text
    for section in SECTIONS:
        assert f"[{section}]" in text


@pytest.mark.parametrize("section", SECTIONS)
def test_help_of_a_section_lists_its_keys_and_no_others(section):
    listed = set(re.findall(r"--([a-z]+)\.[\w-]+", must("train", "--help", section).replace("--SECTION.", "")))
    assert listed == {section}


def test_help_of_a_section_in_every_way_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text('[model]\nname = "pvt/tiny"\n')
    assert "pvt/tiny: " in must("train", "r.toml", "--help", "model")
    assert "swin/tiny: " in must("cost", "swin/tiny", "--help", "model")
    assert must("help", "train", "augment") == must("train", "--help", "augment") == must("train", "-h", "augment")
    (tmp_path / "t.csv").write_text("path,label\n")
    assert "--data.label-column" in must("check", "t.csv", "--help", "data")
    assert "no-such" not in must("predict", "--help", "no-such")
    refused(tmp_path, "train --help agument", 2, "did you mean 'augment'")
    refused(tmp_path, "train --model swim/tiny --help model", 2, "swin")


def test_defaults_in_help_are_those_of_the_code():
    """What is read from source is what the configs hold, for every model, layout and task."""
    sources = Sources()
    for floor, names in (
        ("models", catalog.list_names("models")),
        ("datasets", catalog.list_modules("datasets")),
        ("tasks", catalog.list_modules("tasks")),
    ):
        for name in names:
            room, _, variant = name.partition("/")
            config = catalog.load_config(floor, name)
            listed = {o.name: o for o in sources.options(f"vitrail.{floor}.{room}", variant=variant)}
            assert list(listed) == [f.name for f in fields(config)], name
            for field in fields(config):
                value, option = getattr(config, field.name), listed[field.name]
                assert option.kind != "VALUE", (name, field.name)
                if value not in (None, "", ()) and "/" not in option.default:
                    assert option.default == format_literal(value), (name, field.name)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"], ["trian"], ["models"],
     ["train", "--help", "all"], ["train", "--model", "swin/tiny", "--help", "model"], ["train", "--help", "data"],
     ["completion", "bash"], ["completion", "--candidates", "train", "--model.w"], ["study", "stability", "--help"]],
)  # fmt: skip
def test_help_version_and_lists_leave_torch_alone(words):
    code = (
        "import sys; from vitrail.cli.main import main; main(sys.argv[1:]); "
        "assert not {'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-e 3 -b 8", "--epochs 3 --batch-size 8"), ("-e=3", "--epochs=3"), ("--img-size 224", "--img-size 224 224"),
        ("--img-size=224", "--img-size 224 224"), ("--img-size 192 256", "--img-size 192 256"),
        ("--img-size 224 --lr 1", "--img-size 224 224 --lr 1"), ("--device 0", "--device cuda:0"),
        ("--device=1", "--device cuda:1"),
        ("--device cpu", "--device cpu"), ("--img-size", "--img-size"), ("--img-size 224,448", "--img-size 224,448"),
    ],
)  # fmt: skip
def test_short_spellings(words, expected):
    assert expand_short_flags(words.split()) == expected.split()


def test_no_gpu_is_an_error_that_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, _, err = vitrail("train", "--data", "mini", "--device", "0", "--dry-run")
    assert code == 2
    assert "there is no GPU 'cuda:0' here" in err
