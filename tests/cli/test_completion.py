"""Shells complete the command: the scripts, and what they offer."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from places import must, refused

from vitrail import catalog
from vitrail.cli.main import COMMANDS
from vitrail.cli.syntax.flags import FLAGS, flag_of
from vitrail.recipe import SECTIONS

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def place(own_folder):
    """A folder with a run, another in runs/, and recipes."""
    for run in ("mine", "runs/first", "runs/second"):
        (own_folder / run).mkdir(parents=True)
        (own_folder / run / "run.json").write_text("{}")
    (own_folder / "recipes").mkdir()
    (own_folder / "recipes" / "small.toml").write_text("")
    return own_folder


def offered(*words):
    return must("completion", "--candidates", *words).split()


def test_commands_and_flags(place):
    assert set(offered("")) >= set(COMMANDS)
    assert offered("tr") == ["train"]
    found = set(offered("train", "--"))
    assert {f.flag for f in FLAGS} <= found
    assert {f"--{section}." for section in SECTIONS} <= found
    assert {"--dry-run", "--help"} <= found
    assert offered("predict", "r", "--sc") == ["--score"]
    assert offered("help", "ev") == ["eval"]
    assert offered("no-such", "") == []


def test_keys_of_sections_and_of_what_is_chosen(place):
    assert "--augment.mixup" in offered("train", "--augment.")
    assert offered("train", "--augment.mixu") == ["--augment.mixup"]
    assert "--augment.no-hflip" in " ".join(offered("train", "--augment.no-f")) or not offered(
        "train", "--augment.no-f"
    )
    assert "--model.window" in offered("train", "--model", "swin/tiny", "--model.")
    assert "--model.tokens" not in offered("train", "--model", "swin/tiny", "--model.")
    assert "--model.tokens" in offered("train", "--model.")
    assert set(offered("train", "--help", "")) == {"all", *SECTIONS}


def test_values(place):
    assert offered("train", "--model", "swin/") == catalog.list_names("models", "swin")
    assert offered("train", "--precision", "f") == ["fp32", "fp16"]
    assert "adamw" in offered("train", flag_of("optim", "name"), "")
    assert offered("train", "--task", "seg") == ["segmentation"]
    assert "mini" in offered("train", "--data", "")
    assert offered("train", "--device", "c") == ["cpu", "cuda"]
    assert offered("sample", "mine", "--sampler", "h") == ["heun"]


def test_runs_and_recipes_and_studies(place):
    for words in (
        ("eval",),
        ("predict",),
        ("look",),
        ("report",),
        ("compare", "mine"),
        ("train", "--resume"),
    ):
        assert offered(*words, "") == ["mine", "runs/first", "runs/second"]
    weights = offered("train", "--weights", "")
    assert weights[:3] == ["mine", "runs/first", "runs/second"]
    assert {"vit/small", "vit/small:augreg-in21k-1k"} <= set(weights)
    assert offered("eval", "runs/f") == ["runs/first"]
    assert offered("train", "") == ["recipes/small.toml"]
    assert offered("study", "stab") == ["stability"]
    assert "--depth" in offered("study", "stability", "--d")
    assert offered("completion", "") == list(SHELLS)
    assert "vit/nano" in offered("cost", "")


def test_scripts(tmp_path):
    for shell in SHELLS:
        assert "completion --candidates" in must("completion", shell)
    refused(tmp_path, "completion bahs", 2, "did you mean 'bash'")
    refused(tmp_path, "completion", 2, "needs SHELL")


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes(place):
    """A shell loads the script and asks it as it does when Tab is pressed."""
    (place / "bin").mkdir()
    door = place / "bin" / "vitrail"
    door.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vitrail "$@"\n')
    door.chmod(0o755)
    script = r"""
    eval "$(vitrail completion bash)"
    complete -p vitrail
    ask() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _vitrail vitrail "${COMP_WORDS[COMP_CWORD]}"; echo "${COMPREPLY[*]}"
    }
    IFS=' '
    ask vitrail tr
    ask vitrail eval ru
    ask vitrail train --batch
    ask vitrail train --optim.mom
    ask vitrail train --model vit/na
    ask vitrail predict mine ""
    compgen -F _vitrail vitrail >/dev/null 2>&1; echo "compgen $?"
    """
    env = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=600, env=env, cwd=place)
    lines = done.stdout.splitlines()
    assert "-F _vitrail vitrail" in lines[0]
    assert lines[1:6] == ["train", "runs/first runs/second", "--batch-size", "--optim.momentum", "vit/nano"], (
        done.stderr
    )
    assert done.returncode == 0


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_scripts_are_of_their_shell(tmp_path, shell, check):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    file = tmp_path / "script"
    file.write_text(must("completion", shell))
    done = subprocess.run([shell, check, str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
