"""Every test: few threads, a fixed seed, and a working folder of its own where it asks for one."""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parent))  # `oracles` lies here; at the end, since folders here are called like libraries


def pytest_collection_finish():
    """What has been imported by now stays: the garbage collector need not go through all of it again and again."""
    gc.collect()
    gc.freeze()


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
