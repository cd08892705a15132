"""Every test: few threads, a fixed seed, and a working folder of its own where it asks for one."""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("BENCHMARK_HISTORY", os.devnull)  # what tests run of a benchmark is no row of its history
sys.path.append(
    str(Path(__file__).parent)
)  # `oracles` lies here; at the end, since folders here are called like libraries

import doors

doors.install()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported while tests are collected stays: going through it again and again, for garbage, took a third of
    that time."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(autouse=True)
def steady():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """An empty folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
