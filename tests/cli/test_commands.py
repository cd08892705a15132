"""Every command from its words to its end on models so small that each takes a second."""

import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading

import pytest
import tiny
import torch
from places import SHORT, TINY, Process, everything, good_rows, images, must, npz, table, vitrail

from vitrail.cli.main import COMMANDS, main
from vitrail.inference.predictor import load_predictor
from vitrail.inference.stream import read_each, sources_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data of every layout, and the run `run` on images in folders."""
    root = tmp_path_factory.mktemp("place")
    images(root / "good")
    npz(root / "tiny.npz")
    table(root / "table.csv", good_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "said.txt").write_text(must("train", "--data", "good", "--out", "run", *SHORT))
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def process(*words, **env):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vitrail", *words],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **env},
        timeout=600,
    )


def test_train_says_what_it_found_and_chose_and_where_things_are(place):
    said = (place / "said.txt").read_text()
    for piece in (
        "data: imagefolder, 10 train, 2 val; 2 classes",
        "input.size = 12x12",
        "model.patch = 4",
        "run: run",
        "step 3/3  loss",
    ):
        assert piece in said
    lines = said.rstrip().splitlines()
    assert lines[-4].split()[:3] == ["vitrail", "eval", "run"]
    assert re.fullmatch(
        r"top1 0\.\d{4} \(95 % interval 0\.\d{4} to [01]\.\d{4}\) on the val part, 2 images; "
        r"last weights; report: run/report\.html",
        lines[-1],
    )
    names = {
        "recipe.toml",
        "run.json",
        "log.jsonl",
        "model.safetensors",
        "report.html",
        "evaluation/val.json",
        "checkpoints/step-00000003",
    }
    assert names <= everything(place / "run")
    assert json.loads((place / "run" / "run.json").read_text())["classes"] == ["ant", "bee"]


@pytest.mark.parametrize("data", ["tiny.npz", "table.csv"])
def test_train_on_every_layout(place, tmp_path, data):
    said = must("train", "--data", data, "--out", tmp_path / "run", *SHORT)
    assert said.startswith(f"data: {'npz' if data == 'tiny.npz' else 'table'}, ")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_train_on_the_embedded_set_and_judge_it(tmp_path):
    run = tmp_path / "run"
    must("train", "--data", "mini", "--out", run, "--quiet", *SHORT)
    found = json.loads(must("eval", run, "--json"))
    assert (found["part"], found["count"]) == ("test", 2000)
    assert 0 <= found["top1"] <= 1


def test_quiet_prints_only_the_end(tmp_path):
    said = must("train", "--data", "good", "--out", tmp_path / "run", "--quiet", *SHORT).splitlines()
    assert said[0].startswith("step 3/3  val: top1")
    assert len(said) == 7


def test_keys_of_a_model_count_though_its_name_is_left_open(tmp_path):
    keys = ["--model.depth", "1", "--model.width", "32", "--model.heads", "2"]
    must("train", "--data", "good", "--out", tmp_path / "run", "--quiet", *keys, "--steps", "1")
    text = (tmp_path / "run" / "recipe.toml").read_text()
    assert 'name = "vit/pico"\ndepth = 1\nwidth = 32\nheads = 2' in text


def test_a_run_without_a_name_gets_one_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("good-nano", "good-nano-2"):
        must("train", "--data", images(tmp_path / "good") if expected == "good-nano" else "good", "--quiet", *SHORT)
        assert (tmp_path / "runs" / expected / "model.safetensors").is_file()
    assert "top1" in must("eval", "good-nano")


def test_dry_run_writes_nothing(place, tmp_path):
    before = everything(place)
    said = must("train", "--data", "good", "--out", tmp_path / "deep" / "run", "--dry-run", *SHORT)
    assert "nothing was written; 3 steps would be done" in said
    assert everything(place) == before
    assert not everything(tmp_path)


def test_dry_run_finds_a_model_that_cannot_be_built():
    assert vitrail("train", "--data", "good", "--model", "vit/nano", "--model.heads", "5", "--dry-run")[0] == 2


def test_resuming_a_finished_run_changes_no_weight(place):
    before = (place / "run" / "model.safetensors").read_bytes()
    assert "from step 3 of 3" in must("train", "--resume", "run")
    assert "from step 3 of 3" in must("train", "--resume", "run/recipe.toml", "--dry-run")
    assert (place / "run" / "model.safetensors").read_bytes() == before


def test_resuming_takes_free_keys_and_the_same_data(place):
    assert "from step 3 of 3" in must(
        "train", "--resume", "run", "--data", "good", "--runtime.log-every", "1", "--dry-run"
    )


def test_several_keys_may_be_allowed_to_change(place):
    words = ["--resume", "run", "--lr", "1", "--optim.clip-grad", "2", "--dry-run"]
    code, _, err = vitrail("train", *words)
    assert code == 2
    told = shlex.split(err.replace("\n", " ").partition("start a new run, or ")[2])
    assert told.count("--allow-change") == 2
    assert "from step 3" in must("train", *words, *told)


@pytest.mark.parametrize("amount", [["--steps", "3"], ["--epochs", "1.5"]])
def test_the_recipe_of_a_run_makes_the_same_run_again(tmp_path, amount):
    must("train", "--data", "good", "--out", tmp_path / "a", "--quiet", "--augment.mixup", "0.3", *TINY, *amount)
    must("train", tmp_path / "a" / "recipe.toml", "--out", tmp_path / "b", "--quiet")
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    one, other = ((tmp_path / name / "recipe.toml").read_text().partition("[model]")[2] for name in "ab")
    assert one == other


def test_eval_in_words_and_as_json(place):
    said = must("eval", "run")
    assert said.startswith("val: 2 images\n")
    assert re.search(r"\n  ant +[\d.]+ +[\d.]+ +[\d.]+ +1\n", said)
    found = json.loads(must("eval", "run", "--json", "--split", "train"))
    assert (found["part"], found["count"]) == ("train", 10)
    assert json.loads((place / "run" / "evaluation" / "val.json").read_text())["count"] == 2


def test_eval_at_another_size_says_what_that_costs(place):
    kept = (place / "run" / "evaluation" / "val.json").read_bytes()
    said = must("eval", "run", "--img-size", "20", "16")
    assert re.search(r"top1 at 12x12 [\d.]+, at 20x16 [\d.]+: [+-][\d.]+ points", said)
    assert json.loads(must("eval", "run", "--img-size", "20", "16", "--json"))["count"] == 2
    assert (place / "run" / "evaluation" / "val.json").read_bytes() == kept, "the run's own judgement is not touched"


def test_predict_at_another_size(place):
    image = str(next((place / "good").rglob("*.png")))
    own, other = (
        json.loads(must("predict", "run", image, "--json", *size)) for size in ((), ("--img-size", "20", "16"))
    )
    net = load_predictor("run")
    wide = dataclasses.replace(net.preprocess, size=(20, 16))
    pixels = next(iter(read_each(sources_of([image]), wide, 1))).checked()
    with torch.no_grad():
        wanted = net.task.predict(net.model, wide.batch(wide.image(pixels)[None]))[0]
    assert own != other
    assert list(other["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    for size, said in ((("0", "16"), "images of 0x16 are not possible"), (("20",), "")):
        code, _, err = vitrail("predict", "run", image, "--img-size", *size)
        assert said in err
        assert code == (2 if said else 0)


def test_eval_of_a_file_on_other_data(place, tmp_path):
    """The weights alone are enough."""
    file = tmp_path / "alone.safetensors"
    file.write_bytes((place / "run" / "model.safetensors").read_bytes())
    assert "images" in must("eval", file, "--data", "good")


def test_predict_in_words_and_as_json_lines(place):
    said = must("predict", "run", "good/ant/0.png", "--top", "99").strip()
    assert re.fullmatch(r"good/ant/0\.png: (ant|bee) \d+\.\d%, (ant|bee) \d+\.\d%", said)
    rows = [json.loads(line) for line in must("predict", "run", "good", "--json").splitlines()]
    assert [r["path"] for r in rows] == sorted(f"good/{c}/{i}.png" for c in ("ant", "bee") for i in range(6))
    for row in rows:
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_predict_names_the_bad_image_and_answers_for_the_others(place, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    code, out, err = vitrail("predict", "run", "good/ant/0.png", bad, "good/bee/1.png")
    lines = out.splitlines()
    assert code == 3
    assert lines[0].startswith("good/ant/0.png: ")
    assert lines[1].startswith(f"{bad} is not an image")
    assert lines[2].startswith("good/bee/1.png: ")
    assert err == "vitrail: 1 of 3 images could not be read\n"
    code, out, _ = vitrail("predict", "run", bad, "good/bee/1.png", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert "not an image" in rows[0]["error"]
    assert "label" in rows[1]


def test_check_is_0_for_good_data_and_3_for_bad(place, tmp_path):
    assert "vitrail train --data good" in must("check", "good")
    assert "12,000" in must("check", "mini") or "10,000" in must("check", "mini")
    folder = images(tmp_path / "two words")
    (folder / "ant" / "9.png").write_bytes(b"no")
    assert "9.png" in must("check", folder)  # one of a small set stops nothing
    code, out, err = vitrail("check", folder, "--data.max-errors", "0")
    assert (code, err) == (3, "")
    assert "9.png" in out
    assert f"vitrail check '{folder}' lists them all" in out
    assert f"--data '{folder}' --data.max-errors 0.077" in out
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no")
    code, out, err = vitrail("check", folder)
    assert (code, err) == (3, "")
    assert "suggested" not in out


def test_check_takes_keys_of_the_data_and_passes_them_on(tmp_path):
    images(tmp_path / "good")
    file = table(tmp_path / "t.csv", good_rows(), "path,kind")
    assert vitrail("check", file)[0] == 3
    out = must("check", file, "--data.label-column", "kind")
    assert out.count("advice") <= 1
    line = next(line for line in out.splitlines() if "vitrail train" in line)
    must(*shlex.split(line)[1:], "--dry-run", *SHORT)
    code, _, err = vitrail("check", file, "--train.batch-size", "3")
    assert (code, "does not change" in err) == (2, True)


def test_models_lists_and_shows():
    names = [line.split()[0] for line in must("models").splitlines()[1:]]
    assert {"vit/nano", "vit/base"} <= set(names)
    assert [n for n in names if n.startswith("vit/")] == re.findall(r"^vit/\w+", must("models", "vit"), re.MULTILINE)
    shown = must("models", "vit/nano")
    assert re.search(r"--model\.width +96 ", shown)
    assert shown.splitlines()[0].startswith("vit/nano: ViT")


def test_cost_by_name_and_by_run():
    assert re.search(r"multiply-adds +17\.5\d\d G", must("cost", "vit/base"))
    base = json.loads(must("cost", "vit/base", "--json"))
    assert base["parameters"] == 86_567_656
    assert json.loads(must("cost", "vit/base", "--json", "--model.depth", "6"))["parameters"] < 50_000_000
    assert json.loads(must("cost", "vit/base", "--json", "--img-size", "96", "128"))["macs"] < base["macs"]
    counted = json.loads(must("cost", "run", "--json"))
    with open("run/run.json") as file:
        assert counted["parameters"] == json.load(file)["parameters"]


def test_report_writes_the_page_again(place):
    page = must("report", "run").strip()
    assert page.endswith("report.html")
    assert (place / page).is_file()


def test_doctor_names_what_there_is():
    code, out, err = vitrail("doctor")
    assert (code in (0, 1), err) == (True, "")
    assert code == ("wrong:" in out)
    assert re.search(r"^torch +\d", out, re.MULTILINE)


def test_doctor_as_json_says_the_same():
    code, out, _ = vitrail("doctor", "--json")
    found = json.loads(out)
    assert code == (1 if found["wrong"] else 0)
    assert {"python", "torch", "device", "free disk"} <= set(found)


def test_doctor_examines_a_run(place):
    found = json.loads(must("doctor", "run", "--json"))
    assert (found["run"], found["state"], found["step"], found["steps"]) == ("run", "finished", 3, 3)
    assert "few_steps" in {finding["name"] for finding in found["findings"]}
    said = must("doctor", "run")
    assert said.startswith("run: finished, step 3 of 3\n")
    for finding in found["findings"]:
        assert finding["what"] in said


def test_help_without_a_command_lists_every_command():
    said = must("--help")
    assert said == must() == must("help") == must("-h")
    for name in COMMANDS:
        assert f"\n  {name} " in said
    assert must("version") == must("--version")
    assert must("help", "eval") == must("eval", "--help")


def bash(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=600)


def command(*words):
    return shlex.join([sys.executable, "-m", "vitrail", *map(str, words)])


@pytest.mark.parametrize("words", [["models"], ["--help"], ["train", "--help"]])
def test_a_reader_that_goes_away_is_no_error(words):
    done = bash(f"{command(*words)} | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def read_one_line(pipe):
    with pipe.open() as stream:
        stream.readline()


def test_a_run_goes_on_when_its_reader_goes_away(tmp_path):
    pipe, words = tmp_path / "pipe", ["train", "--data", "good", "--out", tmp_path / "run", *SHORT]
    os.mkfifo(pipe)
    reader = threading.Thread(target=read_one_line, args=(pipe,))
    reader.start()
    child = Process([*words, "--runtime.log-every", "1"], pipe, tmp_path / "stderr.txt")
    reader.join()
    assert (child.code(), child.err.read_text()) == (0, "")
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_without_stdout_and_stderr_comes_to_its_end(tmp_path):
    words = ["train", "--data", "good", "--out", tmp_path / "run", *SHORT]
    assert Process(words, tmp_path / "stdout.txt", tmp_path / "stderr.txt", command=tiny.closed).code() == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"PYTHONIOENCODING": "ascii", "COLUMNS": "1"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C", "NO_COLOR": "1"}, marks=pytest.mark.slow),
    ],
)
def test_poor_terminals_get_plain_words(place, env):
    folder = place / "images é"
    if not folder.exists():
        images(folder, ("abeille à miel", "fourmi"))
    done = process("check", folder.name, **env)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    done = process("models", "é", **env)
    assert done.returncode == 2
    assert "unknown model family" in done.stderr.replace("\n", " ")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("env", [{}, {"TERM": "dumb", "NO_COLOR": "1"}, {"COLUMNS": "1"}])
def test_the_live_table_of_a_terminal(tmp_path, env):
    import pty

    master, slave = pty.openpty()
    words = ["train", "--data", "good", "--out", tmp_path / "run", *SHORT, "--runtime.log-every", "1"]
    child = Process(words, os.ttyname(slave), os.ttyname(slave), {"TERM": "xterm", **env})
    os.close(slave)
    seen = io.BytesIO()
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        seen.write(piece)
    os.close(master)
    text = seen.getvalue().decode(errors="replace")
    assert child.code() == 0, text
    assert "Traceback" not in text
    assert "done: " in text
    if not env:
        assert "data wait" in text
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor comes back


def test_ctrl_c_before_a_run_begins_is_130(monkeypatch, capsys):
    import vitrail.cli.main as door

    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(door, "dispatch", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "vitrail: stopped\n"


def test_an_unexpected_error_is_two_lines(monkeypatch, capsys):
    import vitrail.cli.main as door

    def broken(words):
        raise ZeroDivisionError("of an unlikely kind\nand more")

    monkeypatch.setattr(door, "dispatch", broken)
    assert main(["train"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert "ZeroDivisionError: of an unlikely kind" in err
    with pytest.raises(ZeroDivisionError):
        main(["train", "--debug"])
