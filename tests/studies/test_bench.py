"""What all studies share: rows that are kept at once, studies that are taken up again, and what is shown on the way."""

import json
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from places import Process, must, npz, refused, vitrail

from vitrail.cli.study import Meter
from vitrail.errors import CheckpointError, DataError, RunError
from vitrail.report.page.study_page import render_page
from vitrail.storage import journal
from vitrail.storage.atomic import verify_folder
from vitrail.studies import gradients, stability
from vitrail.studies._bench import bench as benches
from vitrail.studies._bench.bench import Bench, FinishedJob, Job
from vitrail.studies._bench.result import ResultPart, StudyResult, markdown_table

USAGE, DATA, CHECKPOINT = 2, 3, 4
WORDS = shlex.split(
    "gradients --depths 2 --scales 1 --steps 2 --width 16 --patch 4 --batch 4 --head-widths 8 --tokens 9 "
    "--data tiny.npz"
)
JOBS = [Job("a"), Job("b"), Job("b", 1)]


@pytest.fixture
def place(own_folder):
    npz(own_folder / "tiny.npz")
    return own_folder


def opened(path, show=lambda done: None) -> Bench:
    if path.exists():
        return benches.resume_bench(str(path), tiny.ALONE, show)[0]
    return benches.create_bench("stability", stability.Config(), path, tiny.ALONE, show)


def spelled(job, value):
    return str(value)


def broken_after(rows, monkeypatch):
    """Ctrl-C in the middle of the row after so many."""
    count, measured = [0], gradients.measure_row

    def some(*given):
        count[0] += 1
        if count[0] > rows:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(gradients, "measure_row", some)


def files(folder):
    return {
        p.name: p.read_bytes()
        for p in folder.iterdir()
        if p.name not in ("study.json", "journal.jsonl", "manifest.json")
    }


def test_a_study_that_was_broken_off_gives_the_same_bytes(place, monkeypatch):
    words = ["study", *WORDS]
    monkeypatch.setattr(benches.run_directory, "command_line", lambda: ["vitrail", *words])
    must(*words, "--out", "whole")
    with monkeypatch.context() as patched:
        broken_after(5, patched)
        code, out, err = vitrail(*words, "--out", "cut")
    assert code == 130
    assert "5/13" in out
    assert "vitrail study --resume cut" in err
    assert {p.name for p in (place / "cut").iterdir()} == {"study.json", "journal.jsonl"}
    with (place / "cut" / "journal.jsonl").open("ab") as file:
        file.write(b'{"row": "post, 2 blocks, scale 1", "seed": 0, "val')  # a power cut
    with monkeypatch.context() as patched:
        broken_after(8, patched)  # what is in the journal is not trained again
        said = must("study", "--resume", "cut")
    assert "13/13" in said
    assert files(place / "cut") == files(place / "whole")
    verify_folder(place / "cut")


def test_other_settings_and_other_data_are_refused(place, monkeypatch):
    with monkeypatch.context() as patched:
        broken_after(1, patched)
        vitrail("study", *WORDS, "--out", "cut")
    refused(place, "study --resume cut --steps 3", USAGE, "would change the study")
    refused(place, "study stability --resume cut", USAGE, "is of the study gradients")
    refused(place, "study gradients --out cut", USAGE, "vitrail study --resume cut resumes it")
    refused(place, "study --resume tiny.npz", CHECKPOINT, "is not the folder of a study")
    refused(place, "study --resume nowhere", CHECKPOINT, "vitrail study NAME starts one")
    said = (place / "cut" / "study.json").read_text()
    (place / "cut" / "study.json").write_text(said.replace('"steps": 2', '"steps": 3'))
    refused(place, "study --resume cut", CHECKPOINT, "rows belong to other settings")
    (place / "cut" / "study.json").write_text(said.replace('"vitrail": "', '"vitrail": "9'))
    refused(place, "study --resume cut", USAGE, "started with vitrail 9")
    (place / "cut" / "study.json").write_text(said)
    other = dict(np.load(place / "tiny.npz"))
    other["train_images"] = 255 - other["train_images"]
    np.savez(place / "tiny.npz", **other)
    refused(place, "study --resume cut", DATA, "not those that cut was started with")


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_says_how_to_go_on(place):
    words = [sys.executable, "-m", "vitrail", "study", *WORDS, "--seeds", "50", "--out", "cut"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    book = place / "cut" / "journal.jsonl"
    while running.poll() is None and len(journal.read(book)[0]) < 3:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "continue with: vitrail study --resume cut" in err
    kept = len(journal.read(book)[0]) - 1
    assert kept >= len(out.splitlines()) >= 1
    assert "Traceback" not in err


def test_what_cannot_be_prepared_leaves_no_folder(own_folder):
    refused(own_folder, "study stability --data nothere", DATA, "there is no file or folder nothere")


def test_rows_are_measured_once_and_read_as_they_were_written(tmp_path):
    seen, done = [], []

    def work(job):
        seen.append(job)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {"third": 1 / 3, "seed": job.seed, "pair": (1, 2)}

    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "s") as bench:
        bench.measure(JOBS, work, spelled)
    with opened(tmp_path / "s", done.append) as bench:
        found = bench.measure(JOBS, work, spelled)
    assert seen == [*JOBS, JOBS[2]]
    assert found == [{"third": 1 / 3, "seed": job.seed, "pair": [1, 2]} for job in JOBS]
    assert [(d.number, d.of) for d in done] == [(1, 3), (2, 3), (3, 3)]
    assert [d.left for d in done] == [None, None, 0.0]
    assert bench.seconds() >= 0


def test_two_processes_do_not_write_one_journal(tmp_path):
    with opened(tmp_path / "s") as bench:
        bench.measure(JOBS, lambda job: 1, spelled)
        other = Process([tmp_path / "s"], tmp_path / "stdout.txt", tmp_path / "stderr.txt", command=tiny.hold)
        code, said, errors = other.end()
        assert (code, said) == (1, "")
        assert "is working in" in errors
    assert RunError.code == 1


def test_a_journal_ends_with_its_last_whole_line(tmp_path):
    file = tmp_path / "j"
    for number in range(3):
        journal.add(file, {"n": number})
    whole = file.read_bytes()
    for torn in (b'{"n": 3', b"\x00" * 40 + b"\n", b'{"n": 3}'):
        file.write_bytes(whole + torn)
        assert journal.read(file) == ([{"n": 0}, {"n": 1}, {"n": 2}], len(whole))
    journal.trim(file, len(whole))
    assert file.read_bytes() == whole
    journal.add(file, {"n": float("nan")})
    assert file.read_bytes() == whole + b'{"n": null}\n', "JSON has no NaN"
    file.write_bytes(whole.replace(b'{"n": 1}', b'{"n": 1'))
    assert journal.read(file)[0] == [{"n": 0}]


def test_settings_that_no_study_has(tmp_path):
    with opened(tmp_path / "s") as bench:
        bench.data = "x"
        bench.begin()
    head = json.loads((tmp_path / "s" / "study.json").read_text())
    head["config"]["more"] = 1
    (tmp_path / "s" / "study.json").write_text(json.dumps(head))
    with pytest.raises(CheckpointError, match="settings that the study"):
        opened(tmp_path / "s")
    (tmp_path / "s" / "study.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a valid description"):
        opened(tmp_path / "s")


def test_other_data_is_noticed_by_the_bench(tmp_path):
    with opened(tmp_path / "s") as bench:
        bench.data = "x"
        bench.begin()
    with opened(tmp_path / "s") as bench:
        bench.data = "y"
        with pytest.raises(DataError, match="not those"):
            bench.begin()


def test_lines_in_a_pipe_and_a_bar_on_a_terminal(capsys, monkeypatch):
    meter = Meter()
    for number in (1, 2):
        meter.show_done(FinishedJob(Job("plain"), "loss 1", number, 2, 65.0))
    plain = f"{'plain':<32} seed 0  loss 1"
    assert capsys.readouterr().out == f"1/2  {plain}  eta 1:05\n2/2  {plain}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Meter() as meter:
        meter.show_done(FinishedJob(Job("plain"), "loss 1", 1, 2, 65.0))
        assert meter.bar is not None
        assert meter.bar.tasks[0].fields["eta"] == "eta 1:05"
        meter.show_done(FinishedJob(Job("wide"), "loss 2", 2, 2, 0.0))
        assert meter.bar is None
    out = capsys.readouterr().out
    assert out.index("plain") < out.index("wide")


def test_the_page_holds_figures_tables_and_words_and_fetches_nothing():
    told = StudyResult(
        {},
        [],
        {"a.svg": b"<svg/>"},
        "A <study>",
        (ResultPart("One", ("5 < 6",), "a.svg"), ResultPart("Two", (), "", ("x", "y"), (("1", "2"),))),
    )
    made = render_page(told, ["vitrail", "study", "x"]).decode()
    assert "A &lt;study&gt;" in made
    assert "5 &lt; 6" in made
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in made
    assert "<td>2</td>" in made
    assert "http" not in made.replace("http-equiv", "")
    assert markdown_table(["a"], [["1"]]) == ["| a |", "|---|", "| 1 |"]
