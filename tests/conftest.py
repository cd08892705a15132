"""Every test: few threads, a fixed seed, and a working folder of its own where it asks for one."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def steady():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
