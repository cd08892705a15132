"""Images are resized as torchvision resizes them, bit for bit, without its import."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vitrail.data.transforms import preprocess
from vitrail.data.transforms.preprocess import resize_image, to_tensor

SIZES = [((32, 32), (28, 28)), ((97, 41), (224, 224)), ((7, 300), (32, 48)), ((1, 1), (5, 9)), ((60, 80), (60, 80)),
         ((375, 500), (256, 341)), ((3, 2), (2, 1))]  # fmt: skip


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as decoded"])
def test_pixels_are_those_of_torchvision(mode, channels, packed):
    random = np.random.default_rng(channels)
    for before, size in SIZES:
        image = torch.from_numpy(random.integers(0, 256, (*before, channels), np.uint8)).permute(2, 0, 1)
        image = image.contiguous() if packed else image
        expected = F.resize(image, list(size), InterpolationMode(mode), antialias=True)
        found = resize_image(image, size, mode)
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected), (before, size)


def test_a_processor_without_a_kernel_for_bytes_resizes_in_floats(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    image = to_tensor(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), 3)
    assert not preprocess.has_uint8_kernel()
    expected = F.resize(image, [32, 32], InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(resize_image(image, (32, 32), "bilinear"), expected)


@pytest.mark.slow
def test_it_is_prepared_without_torchvision():
    code = (
        "import sys, numpy as np; from vitrail.serve.served import open_model;"
        "from vitrail.data.transforms.preprocess import Preprocess;"
        "Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3).image(np.zeros((9, 7, 3), np.uint8));"
        "assert not {'torchvision', 'torchmetrics', 'matplotlib', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
