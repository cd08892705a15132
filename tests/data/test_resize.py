"""Resizing, random crops and normalisation are those of torchvision and of the plain formulas, to the bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vitrail.data.transforms import resize
from vitrail.data.transforms.preprocess import normalize, to_tensor
from vitrail.data.transforms.resize import resize_image, sample_crop


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("exact", [True, False])
def test_resizing_is_that_of_torchvision(interpolation, channels, exact, monkeypatch):
    if not exact:  # a processor whose resizing of bytes is not good enough
        monkeypatch.setattr(resize, "resizes_bytes", bool)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    mode = v2.InterpolationMode(interpolation)
    for height, width, size in ((40, 51, (24, 24)), (9, 7, (20, 31)), (1, 30, (3, 5)), (33, 64, (33, 20))):
        pixels = noise(height, width, channels)
        plain = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        view = to_tensor(pixels, channels)
        assert view.stride(0) == 1
        expected = F.resize(plain, list(size), mode, antialias=True)
        for image in (plain, view):
            assert torch.equal(resize_image(image, size, interpolation), expected)
            part = image[:, : (height + 1) // 2, width // 3 :]
            assert torch.equal(
                resize_image(part, size, interpolation),
                F.resize(plain[:, : (height + 1) // 2, width // 3 :], list(size), mode, antialias=True),
            )
    assert resize_image(view, (33, 64), interpolation) is view


@pytest.mark.parametrize("size", [(40, 50), (5, 90), (90, 5), (1, 1), (300, 301)])
def test_random_crops_are_those_of_torchvision(size):
    crop = v2.RandomResizedCrop([8, 8], scale=(0.35, 1.0))
    for seed in range(40):
        torch.manual_seed(seed)
        theirs = crop.make_params([torch.empty(3, *size)])
        after = torch.rand(())
        torch.manual_seed(seed)
        assert sample_crop(size, (0.35, 1.0)) == tuple(theirs[name] for name in ("top", "left", "height", "width"))
        assert torch.rand(()) == after


@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (3, 1, 400, 400), (200, 3, 32, 32), (0, 3, 4, 4), (2, 3, 0, 4)])
def test_normalisation_is_the_formula(shape):
    images = torch.from_numpy(noise(*shape))
    mean, std = (0.1, 0.45, 0.7)[: shape[1]], (0.2, 0.3, 0.25)[: shape[1]]
    m, s = (torch.tensor(values)[:, None, None] for values in (mean, std))
    for given in (images, images.to(memory_format=torch.channels_last), images.float()):
        before = given.clone()
        found = normalize(given, mean, std)
        assert torch.equal(found, (images.float() / 255 - m) / s)
        assert found.is_contiguous()
        assert torch.equal(given, before)


def test_an_image_is_not_copied_unless_it_cannot_be_written():
    pixels = noise(6, 5, 3)
    assert to_tensor(pixels, 3).data_ptr() == pixels.ctypes.data
    for other in (pixels[::-1], pixels[:, ::2], np.frombuffer(pixels.tobytes(), np.uint8).reshape(6, 5, 3)):
        image = to_tensor(other, 3)
        assert (image.permute(1, 2, 0).numpy() == other).all()
        assert image.data_ptr() != other.ctypes.data


@pytest.mark.slow
def test_it_is_prepared_without_torchvision():
    code = (
        "import sys, numpy as np; from vitrail.serve.served import open_model;"
        "from vitrail.data.transforms.preprocess import Preprocess;"
        "Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3).image(np.zeros((9, 7, 3), np.uint8));"
        "assert not {'torchvision', 'torchmetrics', 'matplotlib', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
