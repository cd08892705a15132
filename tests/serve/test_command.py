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
from pathlib import Path

import pytest
from model_folders import TASKS, model_folder
from PIL import Image
from places import refused, vitrail
from servers import STUB

pytest.importorskip("fastapi")

from vitrail.cli.deploy import serve as command
from vitrail.cli.syntax.arguments import read
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
    ]
    assert all(f"--{option}" in PAGE for option in options)


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ("serve", "RUN"), ("serve a --port 99999", "--port is 99999"), ("serve a --workers 0", "--workers is 0"),
        ("serve a --timeout -1", "--timeout is -1"), ("serve a --host 0.0.0.0", "no token protects it"),
        ("serve a --token short", "at least 16"), ("serve a b/a", "two models are called a"),
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


def test_the_unit_of_systemd_and_the_image_start_what_the_command_takes():
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
    image = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    (start,), (words,) = (
        re.findall(r"^ENTRYPOINT (.*)$", image, re.MULTILINE),
        re.findall(r"^CMD (.*)$", image, re.MULTILINE),
    )
    assert json.loads(start)[-1] == "serve"
    given, _ = read(command.VERB, json.loads(words))
    assert given.host == "0.0.0.0"
    assert image.index("USER 10001") < image.index("ENTRYPOINT")
    for name in re.findall(r"^COPY (?!--from)(.*) \S+$", image, re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
