"""What is done to an image is done to its mask and its boxes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.annotations.boxes import box_area
from vitrail.data.dataset import IGNORE, ArrayReader, Boxes, Split
from vitrail.data.sampling import Keys
from vitrail.data.transforms.color import jitter_colors
from vitrail.data.transforms.joint import JointTransform, collate_boxes
from vitrail.data.transforms.preprocess import Preprocess, window_starts

HALF = (0.5, 0.5, 0.5)


def pre(size=(32, 48), resize="fit"):
    return Preprocess(size, 3, HALF, HALF, resize)


def keys(*ids, epoch=0):
    return Keys(np.full(len(ids), epoch), np.array(ids))


def drawn(height=40, width=64, count=3):
    """Images whose mask is 1 just where they are white, and whose one box is that rectangle."""
    rng = np.random.default_rng(0)
    images, masks, boxes = [], [], []
    for _ in range(count):
        top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
        bottom, right = top + rng.integers(8, height // 2), left + rng.integers(8, width // 2)
        mask = np.zeros((height, width), np.uint8)
        mask[top:bottom, left:right] = 1
        images.append(np.repeat(mask[:, :, None] * 255, 3, axis=2))
        masks.append(mask)
        boxes.append(Boxes(np.array([[left, top, right, bottom]], np.float32), np.array([2]), np.array([False])))
    return np.stack(images), masks, boxes


def split(kind, **given):
    images, masks, boxes = drawn(**given)
    annotations = masks if kind == "masks" else boxes
    return Split(
        [str(i) for i in range(len(images))],
        np.zeros(len(images), np.int64),
        ArrayReader(images),
        annotations.__getitem__,
    )


@given(seed=st.integers(0, 50), resize=st.sampled_from(["stretch", "fit", "slide", "tile"]))
@settings(deadline=None, max_examples=40)
def test_a_mask_stays_on_what_it_is_a_mask_of(seed, resize):
    joint = JointTransform(pre(resize=resize), seed, "masks", (0.5, 2.0), hflip=True, vflip=True, rotate90=seed % 2 > 0)
    images, masks = joint.load(split("masks"), keys(0, 1, 2))
    assert images.shape == (3, 3, 32, 48)
    assert masks.shape == (3, 32, 48)
    white, counted = images[:, 0] > 127, masks != IGNORE
    wrong = ((masks == 1) != white) & counted
    assert wrong.float().mean() < 0.06  # only along edges, where the image is resized smoothly and the mask is not
    assert (images[:, 0][~counted] == 128).all()  # padding has the mean colour


@given(seed=st.integers(0, 50), resize=st.sampled_from(["stretch", "fit", "slide", "tile"]))
@settings(deadline=None, max_examples=40)
def test_a_box_stays_around_what_it_is_a_box_of(seed, resize):
    joint = JointTransform(pre(resize=resize), seed, "boxes", (0.7, 1.5), hflip=True, vflip=True, rotate90=seed % 2 > 0)
    images, objects = joint.load(split("boxes"), keys(0, 1, 2))
    for image, boxes, labels, size in zip(images, objects.boxes, objects.labels, objects.sizes, strict=True):
        height, width = size.tolist()
        rows, columns = torch.where(image[0, :height, :width] > 160)
        if (labels >= 0).any():
            left, top, right, bottom = boxes[0].tolist()
            assert 0 <= left <= right <= width
            assert 0 <= top <= bottom <= height
            found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (found - boxes[0]).abs().max() <= 2
            assert labels[0] == 2
            assert (labels[1:] == -1).all()


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_images_are_turned_by_all_quarters(kind):
    """Each of the four as often as by chance, and the annotation with them."""
    joint = JointTransform(pre((48, 48), "fit"), 0, kind, rotate90=True)
    data = split(kind)
    plain, _ = JointTransform(pre((48, 48), "fit"), 0, kind).load(data, keys(0))
    size = joint.preprocess.windows(data.read(0))[0].size
    seen = set()
    for epoch in range(16):
        images, _ = joint.load(data, keys(0, epoch=epoch))
        turned = [plain[0, :, : size[0], : size[1]].rot90(k, (1, 2)) for k in range(4)]
        seen |= {k for k, one in enumerate(turned) if torch.equal(images[0, :, : one.shape[1], : one.shape[2]], one)}
    assert seen == {0, 1, 2, 3}


def test_without_chance_the_image_is_as_in_evaluation():
    data = split("masks")
    joint = JointTransform(pre(), 0, "masks")
    images, masks = joint.load(data, keys(0))
    [window] = pre().windows(data.read(0))
    assert torch.equal(images[0], window.image)
    assert (masks[0, window.size[0] :] == IGNORE).all()
    assert (masks[0, :, window.size[1] :] == IGNORE).all()


def test_chance_is_a_function_of_seed_epoch_and_image():
    data = split("boxes")
    joint = JointTransform(pre(), 3, "boxes", (0.5, 2.0), True, True, 0.4, 0.5)
    together_, apart = joint.load(data, keys(2, 0, 1)), [joint.load(data, keys(i)) for i in (2, 0, 1)]
    for place, (image, objects) in enumerate(apart):
        assert torch.equal(together_[0][place], image[0])
        count = int((objects.labels >= 0).sum())
        assert torch.equal(together_[1].boxes[place, :count], objects.boxes[0, :count])
    assert not torch.equal(joint.load(data, keys(0, epoch=1))[0], joint.load(data, keys(0))[0])


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_a_mosaic_is_four_images_with_their_annotations(kind):
    joint = JointTransform(pre((64, 64), "fit"), 0, kind, mosaic=1.0)
    images, annotations = joint.load(split(kind), keys(0, 1))
    if kind == "masks":
        wrong = ((annotations == 1) != (images[:, 0] > 127)) & (annotations != IGNORE)
        assert wrong.float().mean() < 0.06
        assert (annotations == 1).any()
    else:
        assert (annotations.labels >= 0).sum() >= 3
        assert annotations.sizes.tolist() == [[64, 64], [64, 64]]


def test_objects_that_are_hardly_seen_are_left_out_and_crowds_are_not_learned():
    boxes = Boxes(np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32), np.array([0, 1]), np.array([False, True]))
    from vitrail.data.transforms.joint import AnnotatedSample, crop_annotation

    assert len(crop_annotation(boxes, 0, 8, (20, 20)).labels) == 0
    assert crop_annotation(boxes, 0, 5, (20, 20)).boxes[0].tolist() == [0, 0, 5, 10]
    objects = collate_boxes([AnnotatedSample(torch.zeros(3, 4, 4), boxes, (4, 4)),
                             AnnotatedSample(torch.zeros(3, 4, 4),
                                             boxes._replace(labels=boxes.labels[:0], boxes=boxes.boxes[:0],
                                                            crowd=boxes.crowd[:0]), (4, 4))])  # fmt: skip
    assert objects.labels.tolist() == [[0], [-1]]
    assert box_area(np.array([[0, 0, 2, 3], [1, 1, 0, 5]], np.float32)).tolist() == [6, 0]


@given(length=st.integers(1, 500), window=st.integers(8, 100))
def test_windows_cover_everything(length, window):
    found = window_starts(length, window, 1 / 3)
    covered = np.zeros(max(length, window), bool)
    for start in found:
        assert start + window <= max(length, window)
        covered[start : start + window] = True
    assert covered.all()
    assert (len(found) == 1) == (length <= window)
    assert all(b - a <= window * 2 / 3 + 1 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_interleaved", [False, True])
def test_colours_are_those_of_torchvision(channels, is_interleaved):
    from torchvision.transforms import v2

    theirs = v2.ColorJitter(0.3, 0.3, 0.3)
    for seed in range(6):
        image = torch.randint(60, 140, (channels, 9, 7), dtype=torch.uint8)  # nothing is clipped in between
        if is_interleaved:
            image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        torch.manual_seed(seed)
        expected = theirs(image.contiguous())
        torch.manual_seed(seed)
        found = jitter_colors(image, 0.3)
        assert found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= 3  # which cuts off fractions after each of the three
    assert len(jitter_colors(torch.zeros(4, 5, 6, dtype=torch.uint8), 2.0)) == 4
