"""Work on several processes, started once for all workers of pytest."""

import os
import socket
import time

import pytest
from places import Process


def start(folder, words, work, processes=2, env=()):
    """`work(folder, *words)` on so many processes, with the environment that torchrun gives them; torchrun itself would
    import torch for each anew (see test_lost_processes.py). env: more of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for rank in range(processes):
        own = {key: str(value) for key, value in {**shared, **dict(env), "RANK": rank, "LOCAL_RANK": rank}.items()}
        streams = [folder / f"{name}-{rank}.txt" for name in ("out", "err")]
        started.append(Process([folder, *words], *streams, own, command=work))
    ends = [one.end() for one in started]
    assert [code for code, _, _ in ends] == [0] * processes, "".join(err for _, _, err in ends)[-4000:]


def once(tmp_path_factory, name, fill):
    """A folder that `fill(folder)` has filled, once for all workers of pytest: starting torch for every test would take
    most of the time."""
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
    fill(folder)
    (folder / "all-done").touch()
    return folder
