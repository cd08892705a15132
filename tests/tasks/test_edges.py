"""The reason of a crop says what share of an image it leaves out: that of the preprocessing itself."""

import numpy as np
import pytest

from vitrail.data.transforms.preprocess import Preprocess
from vitrail.tasks._defaults.classes import edges_lost


@pytest.mark.parametrize("image", [(400, 500), (500, 400), (300, 300), (200, 800)])
@pytest.mark.parametrize("size", [(96, 96), (64, 96)])
def test_the_share_is_that_of_the_pixels_cropped_away(image, size):
    rows, columns = (np.linspace(0, 255, n).astype(np.uint8) for n in image)
    pixels = np.stack([np.repeat(rows[:, None], image[1], 1), np.repeat(columns[None], image[0], 0)], 2)
    part = Preprocess(size, 2, (0.5,) * 2, (0.5,) * 2, "crop").image(pixels).float()
    seen = float((part[0].max() - part[0].min()) * (part[1].max() - part[1].min())) / 255**2
    assert edges_lost(image, size, 0.875) == pytest.approx(1 - seen, abs=0.03)


def test_nothing_is_lost_by_a_crop_that_takes_all():
    assert edges_lost((100, 100), (50, 50), 1.0) == 0
    assert edges_lost((100, 100), (50, 50), 2.0) == 0
