"""Models divided among processes: the same losses and weights as in one process, as few collectives as there can be,
and checkpoints in pieces that any number of processes reads."""

import os
import socket
import time

import pytest
import sharded_jobs as jobs
import tiny
import torch
from places import Process

CLOSE = 2e-5


def start(folder, words, processes=2, env=()):
    """`sharded_jobs` on several processes, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for rank in range(processes):
        own = {key: str(value) for key, value in {**shared, **dict(env), "RANK": rank, "LOCAL_RANK": rank}.items()}
        streams = [folder / f"{name}-{rank}.txt" for name in ("out", "err")]
        started.append(Process([folder, *words], *streams, own, command=jobs.work))
    ends = [one.end() for one in started]
    assert [code for code, _, _ in ends] == [0] * processes, "".join(err for _, _, err in ends)[-4000:]


def once(tmp_path_factory, name, work):
    """A folder that `work` has filled, once for all workers of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    try:
        folder.mkdir()
    except FileExistsError:
        for _ in range(3000):
            if (folder / "all-done").exists():
                return folder
            time.sleep(0.2)
        pytest.fail("the launch in another worker of pytest did not end well")
    work(folder)
    (folder / "all-done").touch()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return once(tmp_path_factory, "sharded-2", lambda folder: start(folder, ["steps", *jobs.names(jobs.CHEAP)]))


def differences(folder, case):
    """The largest difference of each result between two processes and one."""
    many = torch.load(folder / f"{case.name}.pt", weights_only=True)
    one = jobs.train(case, tiny.ALONE, 1)
    assert one["weights"].keys() == many["weights"].keys()
    found = {key: (one[key] - many[key]).abs().max().item() for key in ("losses", "norms")}
    for key in ("weights", "best"):
        found[key] = max((one[key][n].float() - many[key][n].float()).abs().max().item() for n in one[key])
    return found


@pytest.mark.parametrize("case", jobs.CHEAP, ids=lambda case: case.name)
def test_two_processes_are_as_one(two, case):
    assert max(differences(two, case).values()) <= CLOSE


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    return once(tmp_path_factory, "sharded-all", lambda folder: start(folder, ["steps", *jobs.names(jobs.REST)]))


@pytest.mark.slow
@pytest.mark.parametrize("case", jobs.REST, ids=lambda case: case.name)
def test_every_family_and_task_is_as_in_one_process(rest, case):
    assert max(differences(rest, case).values()) <= CLOSE
