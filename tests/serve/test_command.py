"""The command: the page of documentation from top to bottom against a real server, errors and exit codes, `deploy/`."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from model_folders import TASKS, model_folder
from PIL import Image
from places import refused, vitrail
from servers import STUB

pytest.importorskip("fastapi")

from vitrail.cli.deploy import serve as command
from vitrail.cli.syntax.arguments import read
from vitrail.errors import CheckpointError, DataError, UsageError
from vitrail.serve import settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def lines(word):
    found = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    return [line for line in found if line.startswith(word)]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_page_from_top_to_bottom(own_folder):
    """A real server with a real worker, which SIGTERM ends with 0."""
    model_folder(own_folder / "runs/photos", TASKS["classes"])
    Image.new("RGB", (64, 48), (200, 90, 20)).save("cat.jpg")
    environment = {**os.environ, "VITRAIL_TOKEN": "0123456789abcdef"}
    words = [*shlex.split(lines("vitrail serve")[0])[1:], "--port", "0"]
    with (own_folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vitrail", *words], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        try:
            first = process.stdout.readline()
            assert first.startswith("serving photos (vit/nano, classes) at http://127.0.0.1:"), first
            address = first.split()[5]
            asked = lines("curl")
            assert len(asked) == 8
            token = '-H "Authorization: Bearer $VITRAIL_TOKEN"'
            for line in asked:
                line = line.replace("http://127.0.0.1:8000", address).replace("curl ", f"curl -sSf {token} ")
                answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
                assert answer.returncode == 0, (line, answer.stderr)
                if "/predict" in line:
                    assert json.loads(answer.stdout)["label"] in ("ant", "bee", "cow")
                if "/metrics" not in line:
                    assert isinstance(json.loads(answer.stdout), dict)
            (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
            code = code.replace("http://127.0.0.1:8000", address).replace('token=""', 'token="0123456789abcdef"')
            client = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
            assert client.stdout.strip() in ("ant", "bee", "cow"), client.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process.stdout.close()
    log = (own_folder / "log").read_text()
    assert "POST /predict 200" in log
    assert not any(word in log for word in ("cat.jpg", "top=3", "Traceback", "0123456789abcdef"))
    assert not re.search(r"GET /(ready|metrics)", log)


def test_the_page_names_every_option_and_route():
    from vitrail.serve.guard import ROUTES

    assert all(route in PAGE for route in ROUTES)
    options = [
        "engine",
        "workers",
        "threads",
        "batch-size",
        "queue",
        "timeout",
        "max-body",
        "max-pixels",
        "host",
        "grace",
        "quota",
    ]
    assert all(f"--{option}" in PAGE for option in options)


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ("serve", "RUN"), ("serve a --port 99999", "--port is 99999"), ("serve a --workers 0", "--workers is 0"),
        ("serve a --timeout -1", "--timeout is -1"), ("serve a --host 0.0.0.0", "no token protects it"),
        ("serve a --token short", "at least 16"), ("serve a b/a", "two models are called a"),
        ("serve a --quota -1", "--quota is -1"), ("serve a --token 0123456789abcdef,short", "at least 16"),
        ("serve a --host no.such.host.invalid", "no address of this machine"), ("serve a --queue 0", "--queue is 0"),
    ],
)  # fmt: skip
def test_what_is_certainly_wrong_is_refused_before_anything_is_opened(words, piece, own_folder, monkeypatch):
    monkeypatch.delenv("VITRAIL_TOKEN", raising=False)
    refused(own_folder, words, 2, piece)


def test_a_port_in_use_is_one_sentence(own_folder):
    with settings.listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        refused(own_folder, f"serve a --port {port}", 2, f"cannot listen on 127.0.0.1, port {port}")


def test_a_missing_extra_is_one_sentence(own_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    refused(own_folder, "serve a", 2, "pip install 'vitrail[serve]'")


def test_a_model_without_weights_ends_the_command_with_its_code(own_folder, monkeypatch):
    """The worker is a stub: what it says and the exit code are those of the real one (test_served.py)."""
    real = command.settings_of

    def with_stub(given):
        import dataclasses

        return dataclasses.replace(real(given), command=(sys.executable, "-S", STUB, "fails=1"))

    monkeypatch.setattr(command, "settings_of", with_stub)
    code, out, err = vitrail("serve", "a", "--port", "0")
    assert (code, out) == (4, "")
    assert "vitrail: there are no weights" in err
    assert "Traceback" not in err


def test_models_are_named_by_their_folder_or_as_one_says(own_folder):
    (own_folder / "x=y").mkdir()
    sources = ("runs/photos", "cats=runs/a", "m/model.safetensors", "x=y", "runs/b/")
    names = ("photos", "cats", "model", "x=y", "b")
    expected = list(zip(names, (source.removeprefix("cats=") for source in sources), strict=True))
    assert [tuple(one) for one in command.name_models(sources)] == expected


def test_workers_get_no_token_and_no_module_of_the_working_folder():
    given = settings.Settings(models=(settings.ModelSource("a", "b"),), token="0123456789abcdef")
    assert given.token not in json.dumps(given.hello())
    assert "-P" in given.command


def test_the_unit_of_systemd_starts_what_the_command_takes():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string((ROOT / "deploy/vitrail-serve.service").read_text(encoding="utf-8"))
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[1] == "serve"
    given, _ = read(command.VERB, words[2:])
    assert given.grace + 5 <= float(service["TimeoutStopSec"])
    assert service["KillMode"] == "mixed"
    assert service["NoNewPrivileges"] == service["DynamicUser"] == "yes"
    codes = {error.code for error in (UsageError, DataError, CheckpointError)}  # what is no better when it is repeated
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == codes


def instructions(text):
    """(word, rest) of a Dockerfile, in order."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_is_slim_runs_as_no_root_and_starts_what_the_command_takes():
    """What can be said of a Dockerfile without a daemon that builds it."""
    found = instructions((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"))
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {word for word, _ in found} <= known  # no ADD, which fetches and unpacks
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", rest) for word, rest in found if word == "FROM")
    last = found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]
    once = {word: rest for word, rest in last if word not in ("RUN", "COPY")}
    assert [word for word, _ in last].index("USER") < [word for word, _ in last].index("ENTRYPOINT")
    assert int(once["USER"]) >= 10_000  # a number, so that whoever runs it can tell that it is not root
    assert not any("pip" in rest for word, rest in last if word == "RUN")  # the packages come from the other stage
    assert all("--no-cache-dir" in rest and "-c constraints.txt" in rest for _, rest in found if "pip install" in rest)
    assert not any(re.search("token|secret|password", rest, re.IGNORECASE) for _, rest in found)
    home = next(rest.split()[-1] for word, rest in last if word == "COPY")
    start, words = json.loads(once["ENTRYPOINT"]), json.loads(once["CMD"])
    assert (start[0], start[1:]) == (f"{home}/bin/vitrail", ["serve"])
    given, _ = read(command.VERB, words)
    assert (given.host, given.runs, str(given.port)) == ("0.0.0.0", ("/model",), once["EXPOSE"])
    check = json.loads(once["HEALTHCHECK"].partition("CMD ")[2])
    assert check[:2] == [f"{home}/bin/python", "-c"]
    compile(check[2], "healthcheck", "exec")
    assert f"127.0.0.1:{once['EXPOSE']}/ready" in check[2]
    assert once["STOPSIGNAL"] == "SIGTERM"


def test_the_image_is_built_of_what_the_package_is_built_of():
    found = instructions((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"))
    copied = [part for word, rest in found if word == "COPY" and "--from" not in rest for part in rest.split()[:-1]]
    assert all((ROOT / part).exists() for part in copied)
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table = project["project"]
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    needed = ["pyproject.toml", "constraints.txt", table["readme"], *table["license-files"], *included]
    assert {path.split("/")[0] for path in needed} <= set(copied)
    (extras,) = re.findall(r"'\.\[(.*)\]'", " ".join(rest for _, rest in found))
    assert set(extras.split(",")) <= set(table["optional-dependencies"])
    assert "serve" in extras
    version = re.search(r"python:3\.(\d+)", found[0][1])[1]
    assert int(version) >= int(re.fullmatch(r">=3\.(\d+)", table["requires-python"])[1])
