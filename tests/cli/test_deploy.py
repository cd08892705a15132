"""The files for schedulers: each is read as its scheduler reads it, and its command by torch's parser and ours."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from vitrail.cli.syntax.arguments import read
from vitrail.cli.train import VERB, build_recipe, check

DEPLOY = Path(__file__).parents[2] / "deploy"
HEADER = re.compile(r"#SBATCH --([a-z-]+)(?:=(\S+))?")


def parsed(words):
    """A torchrun command: the options of torch, and the recipe that its rest makes."""
    from torch.distributed.run import parse_args

    words = [re.sub(r"\$\(?\w+\)?|\$\{\w+\}", "4", word) for word in words]
    assert words[0] == "torchrun"
    at = words.index("-m")
    assert words[at : at + 3] == ["-m", "vitrail", "train"]
    given, keys = read(VERB, words[at + 3 :])
    check(given)
    assert given.resume_if_there, "one command for every start"
    recipe = build_recipe(given, keys)
    options = parse_args([*words[1:at], "-m", "vitrail"])
    assert options.rdzv_backend == "c10d"
    assert options.rdzv_endpoint.endswith(":29500")
    assert int(options.max_restarts) > 0
    assert recipe.runtime.timeout == 120
    return options, recipe


def words_of(script):
    """The words of the torchrun command in a shell script."""
    lines = script.replace("\\\n", " ").splitlines()
    command = next(line for line in lines if "torchrun --" in line)
    words = shlex.split(command.removesuffix("&").strip())
    return words[words.index("torchrun") :]


PAGES = ("docs/clusters.md", "docs/scale.md", "docs/training.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_stand_in_the_pages_are_parsed(page):
    """They need GPUs, or machines, that are not here."""
    from vitrail.cli.cluster import plan

    text = (DEPLOY.parent / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:vitrail|torchrun) .*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line)
        words = words[words.index("vitrail") :]
        assert words[1] in ("train", "plan"), "add the command here"
        if words[1] == "plan":
            plan.read_training(read(plan.VERB, words[2:])[0])
        else:
            given, keys = read(VERB, words[2:])
            check(given)
            build_recipe(given, keys)


def test_slurm():
    script = (DEPLOY / "train.slurm").read_text()
    head = dict(HEADER.fullmatch(line).groups() for line in script.splitlines() if line.startswith("#SBATCH"))
    assert script.startswith("#!/bin/bash\n"), "sbatch reads the first line"
    first_command = next(i for i, line in enumerate(script.splitlines()) if line and not line.startswith("#"))
    assert not [line for line in script.splitlines()[first_command:] if line.startswith("#SBATCH")], (
        "sbatch stops there"
    )
    options, recipe = parsed(words_of(script))
    assert head["ntasks-per-node"] == "1", "torchrun starts the processes of a machine"
    assert head["nodes"] == options.nnodes == "4"
    assert head["gpus-per-node"] == options.nproc_per_node
    assert recipe.train.batch_size % (int(head["nodes"]) * int(head["gpus-per-node"])) == 0
    assert head["signal"].startswith("B:USR1@")
    assert "trap queue_again USR1" in script
    assert int(head["signal"].partition("@")[2]) > int(re.search(r"SHUTDOWN_TIMEOUT=(\d+)", script)[1])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_slurm_is_a_script():
    subprocess.run(["bash", "-n", str(DEPLOY / "train.slurm")], check=True)


def test_kubernetes():
    service, job = yaml.safe_load_all((DEPLOY / "train-kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    options, recipe = parsed(container["command"])
    assert (service["kind"], service["apiVersion"]) == ("Service", "v1")
    assert (job["kind"], job["apiVersion"]) == ("Job", "batch/v1")
    assert job["spec"]["completionMode"] == "Indexed"
    assert int(options.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert options.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert (
        options.rdzv_endpoint == f"{job['metadata']['name']}-0.{pod['subdomain']}:{service['spec']['ports'][0]['port']}"
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert recipe.data.keys["path"].startswith(mounts["data"])
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert pod["terminationGracePeriodSeconds"] > int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert all(isinstance(value, str) for value in environment.values()), "Kubernetes takes no numbers there"


def test_skypilot():
    task = yaml.safe_load((DEPLOY / "train-skypilot.yaml").read_text())
    _, recipe = parsed(words_of(task["run"]))
    assert task["num_nodes"] == 4
    assert task["resources"]["accelerators"].partition(":")[2] == "8"
    assert recipe.train.batch_size % (task["num_nodes"] * 8) == 0
    assert {"/data", "/runs"} == set(task["volumes"])
