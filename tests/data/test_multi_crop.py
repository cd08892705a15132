"""Several crops of each image: pixels that depend on (seed, epoch, image, view) alone, and colours as torchvision has
them."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from vitrail.data.dataset import ArrayReader, Split
from vitrail.data.sampling import Keys
from vitrail.data.transforms import multi_crop
from vitrail.data.transforms.multi_crop import MultiCrop, ViewNumbers, blur_images, turn_hues
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.types import Views

PLAIN = MultiCrop(
    Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3), 7, 2, 3, (8, 8), (0.4, 1.0), (0.05, 0.4), True, False,
    0.4, 0.2, (1.0, 0.1, 0.5, 0.5, 0.5), (0.0, 0.2, 0.0, 0.0, 0.0),
)  # fmt: skip
STILL = dataclasses.replace(PLAIN, hflip=False, color_jitter=0.0, grayscale=0.0, blur=(0.0,) * 5, solarize=(0.0,) * 5)


def split(count=6, size=(24, 20), channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, channels), np.uint8)
    return Split([str(i) for i in range(count)], np.arange(count) % 3, ArrayReader(pixels))


def keys(*pairs):
    return Keys(np.array([e for e, _ in pairs]), np.array([i for _, i in pairs]))


def views(transform, data, wanted):
    made, labels = transform.load(data, wanted)
    return transform.batch(made, wanted), labels


def test_two_large_crops_and_smaller_ones_of_every_image():
    (large, small), labels = views(PLAIN, split(), keys((0, 3), (0, 1)))
    assert (large.shape, small.shape) == ((2, 2, 3, 16, 16), (2, 3, 3, 8, 8))
    assert labels.tolist() == [0, 1]
    assert torch.isfinite(large).all()
    assert len({float(v.sum()) for v in (*large.flatten(0, 1), *small.flatten(0, 1))}) == 10, "all differ"


def test_a_view_is_a_function_of_seed_epoch_and_image():
    together = views(PLAIN, split(), keys((0, 3), (2, 1), (5, 3)))[0]
    torch.manual_seed(3)  # what was drawn before must not matter
    alone = views(PLAIN, split(), keys((2, 1)))[0]
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1], one[0], rtol=0, atol=1e-6)
        assert not torch.allclose(many[0], many[2]), "another epoch"
    other = views(dataclasses.replace(PLAIN, seed=8), split(), keys((2, 1)))[0]
    assert not torch.allclose(alone.global_crops, other.global_crops)


def test_without_local_crops_the_global_ones_are_the_same():
    alone = dataclasses.replace(PLAIN, local_crops=0)
    one, other = (views(t, split(), keys((0, 3)))[0] for t in (PLAIN, alone))
    assert torch.equal(one.global_crops, other.global_crops)
    assert other.local_crops.shape == (1, 0, 3, 8, 8)


def test_local_crops_count_by_their_area():
    assert PLAIN.views == 2 + 3 / 4


def test_evaluation_sees_whole_images():
    assert PLAIN.deterministic() == PLAIN.preprocess
    assert PLAIN.works_per_image


def test_crops_without_colours_are_torchvisions():
    (large, _), _ = views(STILL, split(), keys((1, 2)))
    torch.default_generator.manual_seed(multi_crop.derive_seed(7, 1, 2))
    image = torch.from_numpy(split().read(2)).permute(2, 0, 1)
    for view in large[0]:
        place = multi_crop.sample_crop((24, 20), (0.4, 1.0))
        wanted = functional.resized_crop(image, *place, [16, 16], antialias=True)
        torch.testing.assert_close((view * 0.25 + 0.5) * 255, wanted.float())


def colored(pixels, **settings):
    """What colours, and nothing else, make of images [V C h w] as the global views of one, and its random numbers."""
    none = {"blur": (0.0,) * len(pixels), "solarize": (0.0,) * len(pixels)}
    transform = dataclasses.replace(STILL, global_crops=len(pixels), **{**none, **settings})
    made = transform.change_views(pixels[None], keys((0, 5)), 0)[0] * 0.25 + 0.5
    return made, ViewNumbers(7, keys((0, 5)), range(len(pixels)), torch.device("cpu"))


def test_brightness_contrast_and_saturation_are_torchvisions(monkeypatch):
    monkeypatch.setattr(multi_crop, "turn_hues", lambda turns: torch.eye(3).expand(len(turns), 3, 3))
    pixels = torch.randint(60, 120, (8, 3, 6, 5), dtype=torch.uint8)  # nothing to clip
    made, draws = colored(pixels, color_jitter=0.3)
    numbers = {p: 2 * draws.uniform(p) - 1 for p in (multi_crop.BRIGHTNESS, multi_crop.CONTRAST, multi_crop.SATURATION)}
    changed = draws.chance(multi_crop.JITTER, multi_crop.JITTER_SHARE)
    assert 0 < int(changed.sum()) < 8
    for i in range(8):
        image = pixels[i].float() / 255
        if changed[i]:
            image = functional.adjust_brightness(image, float(1 + 0.3 * numbers[multi_crop.BRIGHTNESS][i]))
            image = functional.adjust_contrast(image, float(1 + 0.3 * numbers[multi_crop.CONTRAST][i]))
            image = functional.adjust_saturation(image, float(1 + 0.15 * numbers[multi_crop.SATURATION][i]))
        torch.testing.assert_close(made[i], image, rtol=0, atol=2e-4)


def test_grey_and_inverted_views():
    pixels = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    grey, _ = colored(pixels, grayscale=1.0)
    wanted = functional.rgb_to_grayscale(pixels.float() / 255, 3)
    torch.testing.assert_close(grey, wanted, rtol=0, atol=1e-3)
    inverted, _ = colored(pixels, solarize=(1.0,) * 4)
    torch.testing.assert_close(inverted, functional.solarize(pixels.float() / 255, 0.5))


def test_blur_is_torchvisions_inside_of_the_border():
    images = torch.rand(2, 3, 24, 20)
    made = blur_images(images, torch.tensor([0.7, 1.5]))
    for image, blurred, sigma in zip(images, made, (0.7, 1.5), strict=True):
        wanted = functional.gaussian_blur(image, [15, 15], [sigma, sigma])
        torch.testing.assert_close(blurred[:, 8:-8, 8:-8], wanted[:, 8:-8, 8:-8], rtol=0, atol=1e-4)
    torch.testing.assert_close(blur_images(torch.full((1, 1, 9, 9), 0.3), torch.tensor([2.0]))[0, 0, 0, 0].item(), 0.3)


def test_hues_turn_about_grey():
    turns = torch.tensor([0.0, 0.25, 1.0])[:, None, None]
    matrices, eye = turn_hues(turns), torch.eye(3)
    torch.testing.assert_close(matrices[[0, 2]], eye.expand(2, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(matrices[1] @ torch.ones(3), torch.ones(3), rtol=0, atol=5e-3)
    four = matrices[1] @ matrices[1] @ matrices[1] @ matrices[1]
    torch.testing.assert_close(four, eye, rtol=0, atol=1e-5)
    assert (matrices[1] @ torch.tensor([1.0, 0, 0])).argmax() != 0, "red is another colour"


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_that_are_not_rgb_keep_their_channels(channels):
    pre = Preprocess((16, 16), channels, (0.5,) * channels, (0.25,) * channels)
    made, _ = views(dataclasses.replace(PLAIN, preprocess=pre), split(channels=channels), keys((0, 0), (1, 4)))
    assert made.global_crops.shape == (2, 2, channels, 16, 16)
    assert torch.isfinite(made.global_crops).all()


def test_a_key_is_needed():
    with pytest.raises(ValueError, match="key"):
        PLAIN.batch(Views(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 3, 3, 8, 8)))
