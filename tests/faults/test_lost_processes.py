"""A process that is stopped, killed or waits for what never comes ends the run within the stated time, by name; what
the launcher starts again goes on with its own run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks
import tiny
import torch
import torch.distributed as dist

from vitrail.engine.processes import peers as peers_of
from vitrail.engine.processes.peers import Peers, Sign, Watch
from vitrail.engine.processes.world import World, check_gpus
from vitrail.engine.processes.writer import CheckpointWriter
from vitrail.errors import RunError, UsageError
from vitrail.recipe import InitConfig, RuntimeConfig
from vitrail.training import create, restart
from vitrail.training.processes.division import batch_shares

NOW = 1000.0


@pytest.fixture
def pair():
    """Two processes' views of each other, in one process."""
    store = dist.TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=10), wait_for_workers=False)
    both = [Peers(store.clone(), rank, 2, 60.0) for rank in (0, 1)]
    yield both
    for one in both:
        one.close()


def watch(one, silent=0.0, unchanged=0.0, step=7, doing=""):
    one.watches[1 - one.rank] = Watch(Sign(3, 5, step, doing, os.getpid(), "here"), NOW - silent, NOW - unchanged)
    one.answered = NOW


def test_the_time_out_is_a_key_of_a_recipe():
    assert RuntimeConfig().timeout == 60


def test_a_silent_process_is_named_with_its_step(pair):
    watch(pair[0], silent=59)
    assert pair[0].find_fault(NOW) == ""
    watch(pair[0], silent=61)
    pair[0].step = 8
    assert pair[0].find_fault(NOW) == (
        "process 1 has given no sign of life for 60 s; the last step that it had done is 7, here it is 8"
    )


def test_a_process_that_is_busy_may_be_so_for_hours(pair):
    """It reads, saves or evaluates: it gives signs and is in no step."""
    one = pair[0]
    one.doing, one.since, one.longest = "step", NOW - 7200, 3.0
    watch(one, unchanged=7200)
    assert one.find_fault(NOW) == ""


def test_processes_that_wait_for_each_other_are_named_past_the_longest_step(pair):
    one = pair[0]
    one.step, one.doing, one.longest = 6, "step", 30.0
    watch(one, unchanged=89, step=7, doing="step")
    one.since = NOW - 89
    assert one.find_fault(NOW) == "", "60 s past the longest step, of 30 s"
    one.since = NOW - 91
    assert one.find_fault(NOW) == "no process has gone on for 91 s: process 0 waits in step 7, process 1 in step 8"
    one.longest, one.since = -1.0, NOW - 300
    assert one.find_fault(NOW) == "", "the first step may compile"


def test_a_launcher_that_does_not_answer_is_told(pair):
    watch(pair[0])
    pair[0].answered = NOW - 61
    assert "the store of the launcher has not answered for 60 s" in pair[0].find_fault(NOW)


def test_signs_are_heard_and_words_of_the_dead_as_well(pair, monkeypatch):
    one, two = pair
    monkeypatch.setattr(peers_of, "LOST_S", 0.3)
    for each in pair:
        each.give_sign()
    two.step = 4
    two.give_sign()
    one.hear()
    assert one.watches[1].sign[:3] == (2, 0, 4)
    assert one.watches[1].sign.pid == os.getpid()
    assert one.explain_loss() == "the connection to another process was lost"
    one.watches[1] = one.watches[1]._replace(heard=time.monotonic() - 5)
    one.answered = time.monotonic()
    with monkeypatch.context() as patched:  # nobody waits longer than it takes to miss a sign
        patched.setattr(peers_of, "LOST_S", 1e6)
        patched.setattr(peers_of.time, "sleep", lambda _: pytest.fail("it waits"))
        assert one.explain_loss() == "process 1 is gone; the last step that it had done is 4"
    one.answered = time.monotonic() - 60
    assert one.explain_loss() == "the store of the launcher does not answer: is it gone? 0 steps are done"
    two.say_last_words("image-7.png is truncated")
    assert one.explain_loss() == "process 1 ended: image-7.png is truncated"


def test_what_processes_tell_each_other_of_a_save_does_not_stay_in_the_launcher(pair, tmp_path):
    both = [CheckpointWriter(tmp_path, World(one.rank, 2, torch.device("cpu"), one), 2, True) for one in pair]
    before = pair[0].store.num_keys()
    for number in (1, 2):
        for rank in (1, 0):
            both[rank].saves = number
            found = both[rank].exchange({f"{rank}.safetensors": {"size": number}})
        assert found == [{f"{rank}.safetensors": {"size": number}} for rank in (0, 1)]
    assert pair[0].store.num_keys() == before


def test_meetings_do_not_stay_in_the_launcher(pair):
    for _ in range(5):
        other = threading.Thread(target=pair[1].meet)
        other.start()
        pair[0].meet()
        other.join()
    assert pair[0].store.num_keys() <= 3, "those of the last one"


def test_what_a_library_raises_becomes_a_sentence(pair):
    world = World(0, 2, torch.device("cpu"), pair[0])
    pair[1].say_last_words("no space")
    with pytest.raises(RunError, match=r"process 1 ended: no space \(this is process 0\)"), world.explain_loss("again"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:56207")
    with pytest.raises(RuntimeError, match="of its own"), world.explain_loss("again"):
        raise RuntimeError("an error of its own")


def test_processes_that_do_not_start_are_counted(pair):
    with pytest.raises(RunError, match="only 1 of 2 processes have started after 0 s"):
        pair[0].meet(0.0)


def test_the_first_that_knows_says_why_the_run_ends(pair):
    said = []
    for one in pair:
        world = World(one.rank, 2, torch.device("cpu"), one)
        with pytest.raises(RunError) as caught, world.explain_loss("again"), world.explain_loss("again"):
            raise RunError("no space")
        said.append(not caught.value.is_repeated)
    assert said == [True, False]
    with (
        pytest.raises(RunError, match="ValueError: a surprise"),
        World(1, 2, torch.device("cpu"), pair[1]).explain_loss(""),
    ):
        raise ValueError("a surprise")


def test_where_the_store_is_gone_one_process_of_each_machine_says_so(pair, monkeypatch):
    def gone(*given):
        raise RuntimeError("Connection reset by peer")

    for local, one in enumerate(pair):
        monkeypatch.setattr(one, "meeting", SimpleNamespace(add=gone))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert one.is_speaker() == (local == 0)


def test_the_last_collectives_are_kept_where_processes_hang(pair, tmp_path):
    assert pair[1].keep_record() == ""
    pair[1].records = tmp_path / "flight"
    assert pair[1].keep_record() == f"; the last collectives of each process are in {tmp_path / 'flight'}"
    assert "version" in json.loads((tmp_path / "flight" / "process-1.json").read_text())


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 0)
    check_gpus(gpu, "auto", 2)
    check_gpus(torch.device("cpu"), "auto", 64)
    with pytest.raises(UsageError, match="4 processes on this machine, and 2 GPUs for them"):
        check_gpus(gpu, "auto", 4)
    with pytest.raises(UsageError, match="2 processes on this machine, and 1 GPU for them"):
        check_gpus(gpu, "cuda:0", 2)


def test_fewer_processes_go_on_with_the_micro_batches_of_the_start(own_folder):
    running = tiny.begin(tiny.recipe(tiny.npz(own_folder / "data"), runtime={"micro_batch": None}), Path("run"))
    create.keep_micro_batch(running)
    assert running.recipe.runtime.micro_batch is None, "one process leaves it open"
    running.world = World(0, 2, torch.device("cpu"))
    running.feed = replace(running.feed, micro_batch=8)
    create.keep_micro_batch(running)
    assert running.recipe.runtime.micro_batch == 8
    assert batch_shares(16, 4, 8, False) == (4, 4)
    assert batch_shares(16, 1, 8, False) == (16, 8), "the same micro-batches, twice as many"
    with pytest.raises(UsageError, match="start 2 processes; or a new run with --batch-size 15 or 18"):
        batch_shares(16, 3, 8, False)


# a launcher that starts its processes again


def launched(monkeypatch, run_id="a"):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)


def test_a_run_of_the_same_launch_is_found_and_no_other(own_folder, monkeypatch):
    data = tiny.npz(own_folder / "data")
    tiny.begin(tiny.recipe(data), Path("runs/alone"))
    launched(monkeypatch)
    assert restart.find_begun(None, tiny.ALONE) is None
    assert restart.find_begun(Path("runs/alone"), tiny.ALONE) is None, "it was begun without a launcher"
    tiny.begin(tiny.recipe(data), Path("runs/mine"))
    for out in (None, Path("runs/mine")):
        found = restart.find_begun(out, tiny.ALONE)
        assert found is not None
        assert found.path == Path("runs/mine")
    assert restart.find_begun(Path("runs/alone"), tiny.ALONE) is None
    launched(monkeypatch, "b")
    assert restart.find_begun(Path("runs/mine"), tiny.ALONE) is None
    launched(monkeypatch)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert restart.find_begun(Path("runs/mine"), tiny.ALONE) is None, "another launcher that was given the same id"


def test_a_run_that_ended_before_its_first_checkpoint_begins_again_with_its_initial_weights(own_folder):
    data = tiny.npz(own_folder / "data")
    tiny.finish(tiny.begin(tiny.recipe(data), Path("first")))
    made = replace(tiny.recipe(data, train={"steps": 3}), init=InitConfig(weights="first"))
    begun = {name: p.clone() for name, p in tiny.begin(made, Path("run")).state.model.named_parameters()}
    again = dict(tiny.again(Path("run")).state.model.named_parameters())
    assert all((again[name] == p).all() for name, p in begun.items())


# the launcher itself


def torchrun(folder, *words, options=()):
    """torchrun with two processes of `words`, in a process of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    paths = os.pathsep.join([str(Path(ranks.__file__).parent), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(
        [*command, *map(str, words)], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def child(launcher, rank):
    """The process of a rank."""
    for process in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{process}/environ").read_text().split("\0"):
            return int(process)
    raise LookupError(rank)


def wait_for(path, launcher, seconds=120):
    until = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


def at_this_load(seconds):
    """As long as it may take where more processes want to run than there are cores."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def end_well(launcher):
    said = launcher.communicate(timeout=300)[1]
    assert launcher.returncode == 0, said


def train(data, out, steps, *more):
    keys = [f"--model.{key}={value}" for key, value in (("depth", 1), ("width", 16), ("heads", 2))]
    return ["-m", "vitrail", "train", "--data", data, "--model", "vit/nano", *keys, "--steps", steps, "--out", out,
            "--batch-size", 16, "--precision", "fp32", "--workers", 0, "--device", "cpu", "--runtime.log-every", 1,
            "--runtime.save-every", 5, "--train.eval-every", 10, *more]  # fmt: skip


@pytest.mark.slow
def test_a_stopped_process_ends_all_within_the_time_out_and_none_stays(tmp_path):
    """SIGSTOP: it answers nothing, and obeys no SIGTERM."""
    launcher = torchrun(tmp_path, *train(tiny.npz(tmp_path / "data"), "run", 10**6, "--runtime.timeout", 5))
    wait_for(tmp_path / "run" / "log.jsonl", launcher)
    stopped = child(launcher, 1)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    said = " ".join(launcher.communicate(timeout=60)[1].split())
    assert time.monotonic() - began < at_this_load(5 + 10)
    assert "vitrail: process 1 has given no sign of life for 5 s; the last step that it had done is" in said
    assert launcher.returncode == 1
    assert not Path(f"/proc/{stopped}").exists()


@pytest.mark.slow
def test_a_collective_that_one_leaves_out_ends_all_by_name(tmp_path):
    tiny.npz(tmp_path)
    launcher = torchrun(tmp_path, ranks.__file__, tmp_path, "skip")
    began = time.monotonic()
    said = " ".join(launcher.communicate(timeout=120)[1].split())
    assert time.monotonic() - began < at_this_load(60)
    assert launcher.returncode == 1
    assert "vitrail: no process has gone on for" in said
    assert "process 0 waits in step 5 as the others do" in said


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_started_again_and_the_run_ends_in_the_same_bits(rank, tmp_path):
    data = tiny.npz(tmp_path / "data")
    launcher = torchrun(tmp_path, *train(data, "whole", 30))
    end_well(launcher)
    launcher = torchrun(tmp_path, *train(data, "killed", 30), options=["--max-restarts=3"])
    wait_for(tmp_path / "killed" / "checkpoints" / "step-00000010" / "manifest.json", launcher)
    os.kill(child(launcher, rank), signal.SIGKILL)
    end_well(launcher)
    assert tiny.digest(tmp_path / "killed" / "model.safetensors") == tiny.digest(
        tmp_path / "whole" / "model.safetensors"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "rank"), [("save", 0), ("eval", 0), ("eval", 1)])
def test_killed_while_it_saves_or_evaluates_the_run_ends_in_the_same_bits(moment, rank, tmp_path):
    """Process 0 alone writes; both evaluate."""
    words = train(tiny.npz(tmp_path / "data"), "whole", 30)
    end_well(torchrun(tmp_path, *words))
    words[words.index("whole")] = "killed"
    aimed = [Path(ranks.__file__).with_name("aimed.py"), moment, rank, tmp_path / "died", *words[2:]]
    end_well(torchrun(tmp_path, *aimed, options=["--max-restarts=3"]))
    assert (tmp_path / "died").exists()
    assert tiny.digest(tmp_path / "killed" / "model.safetensors") == tiny.digest(
        tmp_path / "whole" / "model.safetensors"
    )
