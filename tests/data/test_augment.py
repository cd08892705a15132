"""Policies and jitter: what they do to an image, by chance that is a function of (seed, epoch, image) and of nothing
else."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vitrail.data.sampling import Keys
from vitrail.data.transforms.augment import Augmentation, blur
from vitrail.data.transforms.preprocess import Preprocess, to_tensor
from vitrail.data.transforms.progressive import ProgressiveResize
from vitrail.errors import DataError

POLICIES = ("autoaugment", "trivialaugment", "3-augment")


def noise(channels=3, height=20, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def augmentation(channels=3, size=(20, 24), seed=0, **values):
    return Augmentation(Preprocess(size, channels, (0.5,) * channels, (0.5,) * channels), seed, **values)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "what",
    [
        *({"auto_augment": p} for p in POLICIES),
        {"color_jitter": 0.3},
        {"auto_augment": "3-augment", "color_jitter": 0.3, "crop": "random"},
    ],
    ids=str,
)
def test_an_image_is_changed_by_seed_epoch_and_image_alone(what, channels):
    made, pixels = augmentation(channels, **what), noise(channels)
    found = {}
    for company in range(2):
        for i in np.random.default_rng(company).permutation(40):
            torch.manual_seed(company)  # what was drawn before does not matter
            image = made.image(pixels, int(i) // 8, int(i) % 8)
            assert image.dtype == torch.uint8
            assert image.shape == (channels, 20, 24)
            assert torch.equal(found.setdefault(int(i), image), image)
    assert len({p.numpy().tobytes() for p in found.values()}) > (12 if channels == 3 else 8)
    others = [augmentation(channels, seed=1, **what).image(pixels, i // 8, i % 8) for i in range(40)]
    assert any(not torch.equal(a, found[i]) for i, a in enumerate(others)), "another seed draws others"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(3, 5), (32, 32)])
def test_policies_take_grey_and_colour_of_any_size(policy, channels, size):
    made = augmentation(channels, size, auto_augment=policy, color_jitter=0.4)
    for i in range(60):
        assert made.image(noise(channels, *size), 0, i).shape == (channels, *size)


def kind(before, after):
    """Which of the three changes of 3-Augment this is."""
    if torch.equal(after, F.rgb_to_grayscale(before, before.shape[0])):
        return "grey"
    if torch.equal(after, F.solarize(before, 128)):
        return "solarised"
    smoother = after.float().diff(dim=2).abs().mean() <= before.float().diff(dim=2).abs().mean()
    mean = abs(after.float().mean() - before.float().mean())
    return "blurred" if smoother and mean < 2 else "?"


def test_three_augment_does_one_of_three_each_a_third_of_the_time():
    made, pixels = augmentation(auto_augment="3-augment"), noise()
    before = to_tensor(pixels, 3)
    kinds = [kind(before, made.image(pixels, 0, i)) for i in range(600)]
    share = {k: kinds.count(k) / 600 for k in set(kinds)}
    assert set(share) == {"grey", "solarised", "blurred"}
    assert all(abs(s - 1 / 3) < 0.06 for s in share.values())


def test_blurring_is_torchvisions():
    image = to_tensor(noise(height=30, width=40), 3)
    for seed in range(12):
        torch.manual_seed(seed)
        found = blur(image)
        torch.manual_seed(seed)
        sigma = float(torch.empty(1).uniform_(0.1, 2.0))
        wanted = F.gaussian_blur(image, [13, 13], [sigma, sigma])
        assert (found.int() - wanted.int()).abs().max() <= 2, "the same up to what lies beyond three deviations"


def test_a_grey_image_is_left_alone_where_colour_makes_it_grey():
    made, pixels = augmentation(1, auto_augment="3-augment"), noise(1)
    same = [torch.equal(made.image(pixels, 0, i), to_tensor(pixels, 1)) for i in range(300)]
    assert abs(np.mean(same) - 1 / 3) < 0.1


def test_jitter_keeps_within_its_bounds():
    """Of an even grey image, only brightness can change: by the factor that was asked for at most."""
    flat = np.full((8, 8, 3), 100, np.uint8)
    found = [augmentation(size=(8, 8), color_jitter=0.3).image(flat, 0, i) for i in range(300)]
    means = np.array([f.float().mean().item() for f in found])
    assert means.min() >= 68  # rounded down twice
    assert means.max() <= 131
    assert means.max() - means.min() > 50
    assert all(f.float().std() == 0 for f in found)


def test_without_anything_an_image_is_only_preprocessed():
    made = augmentation()
    assert not made.works_per_image
    assert torch.equal(made.image(noise(), 3, 4), to_tensor(noise(), 3))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_batch_stage_takes_any_number_of_channels(channels):
    made = augmentation(channels, crop="pad", hflip=True, vflip=True, random_erasing=1.0)
    images = torch.stack([to_tensor(noise(channels, seed=i), channels) for i in range(6)])
    keys = Keys(np.zeros(6, np.int64), np.arange(6))
    whole = made.batch(images, keys)
    assert whole.shape == (6, channels, 20, 24)
    parts = [made.batch(images[i : i + 2], Keys(keys.epochs[i : i + 2], keys.ids[i : i + 2])) for i in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("have", "takes"), [(5, 1), (6, 1), (2, 1), (5, 3), (3, 4)])
def test_channels_that_nobody_can_name_are_not_made_into_others(have, takes):
    with pytest.raises(DataError, match=f"has {have} channels and the model takes {takes}"):
        to_tensor(noise(have), takes)


@pytest.mark.parametrize(("have", "takes"), [(1, 3), (1, 5), (3, 1), (4, 1), (4, 3), (6, 6)])
def test_channels_that_can_be_made_into_others_are(have, takes):
    assert to_tensor(noise(have), takes).shape == (takes, 20, 24)


def test_sizes_grow_in_at_most_five_equal_steps():
    growth = ProgressiveResize((96, 96), (224, 224), 1000, 16)
    sizes = [growth.size_at(step) for step in range(1200)]
    assert growth.all_sizes == [(96, 96), (128, 128), (144, 144), (176, 176), (192, 192), (224, 224)]
    assert [sizes.count(s) for s in growth.all_sizes] == [200, 200, 200, 200, 200, 200]
    assert sizes == sorted(sizes)
    assert growth.size_at(10**9) == (224, 224)


def test_sizes_are_multiples_of_the_stride_and_never_above_the_full_one():
    for stride in (1, 4, 7, 16, 32):
        for full in ((28, 30), (100, 33), (224, 224)):
            for start in ((1, 1), (13, 27), (28, 30)):
                growth = ProgressiveResize(start, full, 7, stride)
                assert len(growth.all_sizes) <= 6
                assert growth.all_sizes[-1] == full
                for size in growth.all_sizes:
                    assert all(0 < a <= b and (a % stride == 0 or a == b) for a, b in zip(size, full, strict=True))


def test_growing_resizes_on_the_way_and_not_at_the_end():
    images = torch.rand(4, 3, 32, 24)
    growth = ProgressiveResize((16, 12), (32, 24), 10, 4)
    assert growth.resize_batch(images, 0).shape == (4, 3, 16, 12)
    assert growth.resize_batch(images, 10) is images
    flat = growth.resize_batch(torch.full((1, 1, 32, 24), 0.25), 0)
    torch.testing.assert_close(flat, torch.full((1, 1, 16, 12), 0.25))
    pieces = torch.cat([growth.resize_batch(images[:2], 0), growth.resize_batch(images[2:], 0)])
    assert torch.equal(pieces, growth.resize_batch(images, 0))
