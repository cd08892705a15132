"""The study of convolutions and attention: what disturbing does to images, what is said of made-up numbers, and a run
of seconds."""

import json
import re
import shlex

import pytest
import torch
from places import must, npz, refused
from torch import nn

from vitrail.analysis.cost import cost
from vitrail.assembly.model import create_model
from vitrail.contracts import Trunk
from vitrail.studies import cnn_vs_vit as study
from vitrail.studies.cnn_vs_vit import disturb, field, words

SMALL = "--steps 1 --seeds 1 --batch 4 --shares 0.5 1 --data tiny.npz"
SHAPE = {"size": [28, 28], "channels": 1}


@pytest.fixture
def images():
    return torch.rand(3, 2, 12, 16, generator=torch.Generator().manual_seed(1))


def vit(depth=2):
    return create_model("vit/nano", 3, {**SHAPE, "stem": "patch", "patch": 4, "width": 32, "heads": 2, "depth": depth})


def test_models_have_about_as_many_parameters():
    counts = []
    for keys in study.MODELS.values():
        rest = {k: v for k, v in keys.items() if k != "name"}
        counts.append(cost(create_model(keys["name"], 10, {**SHAPE, **rest})).parameters)
    assert max(counts) < 1.2 * min(counts)


@pytest.mark.parametrize("kind", study.KINDS)
def test_disturbed_images_keep_their_shape_and_range_and_are_the_same_for_a_seed(kind, images):
    change, levels = study.KINDS[kind]
    for level in levels:
        made = change(images, level, 3)
        assert made.shape == images.shape
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
        assert torch.equal(made, change(images, level, 3))
        assert not torch.equal(made, images)


def test_a_shift_moves_and_repeats_the_border(images):
    made = disturb.shifted(images, 2, -3)
    assert torch.equal(made[:, :, 2:, :-3], images[:, :, :-2, 3:])
    assert torch.equal(made[:, :, 0, :-3], images[:, :, 0, 3:])
    assert torch.equal(disturb.shifted(images, 0, 0), images)


def test_a_model_that_does_not_mind_shifts_is_seen_not_to():
    """Convolutions that go round the edge and a mean over all places do not see where a thing in the middle is."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(),
                        nn.Linear(8, 3))  # fmt: skip
    images = torch.zeros(4, 1, 12, 12)
    images[:, :, 5:8, 5:8] = torch.rand(4, 1, 3, 3)
    for down, right in ((1, 0), (0, -2), (2, 2)):
        assert torch.allclose(net(images), net(disturb.shifted(images, down, right)), atol=1e-6)
        assert torch.equal(study.answers(net, images), study.answers(net, disturb.shifted(images, down, right)))


def test_shuffled_images_have_the_same_histogram(images):
    for k in (2, 3, 5):
        made = disturb.shuffled(images, k, 0)
        assert torch.equal(made.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(disturb.shuffled(images, 5, 0)[:, :, 10:], images[:, :, 10:])  # what no whole tile takes stays
    assert torch.equal(disturb.shuffled(images, 1, 0), images)


def wave(cycles):
    """Down an image of 16 x 16, about 1/2."""
    y = torch.arange(16) / 16
    return (0.5 + 0.4 * torch.cos(2 * torch.pi * cycles * y))[None, None, :, None].expand(1, 1, 16, 16)


def test_a_cut_of_frequencies_removes_what_it_should():
    slow, fast = wave(1), wave(6)  # 1/8 and 6/8 of the highest frequency
    flat = torch.full_like(slow, 0.5)
    both = slow + fast - flat
    assert torch.allclose(disturb.filtered(both, disturb.frequencies(both) <= 0.5), slow, atol=1e-6)
    assert torch.allclose(disturb.low_passed(fast, 0.5, 0), flat, atol=1e-6)
    assert torch.allclose(disturb.low_passed(slow, 0.5, 0), slow, atol=1e-6)
    assert torch.allclose(disturb.high_passed(slow, 0.5, 0), flat, atol=1e-6)
    assert torch.allclose(disturb.high_passed(fast, 0.5, 0), fast, atol=1e-6)


def test_noise_and_occlusion_have_their_size():
    grey = torch.full((20, 1, 20, 20), 0.5)
    assert float((disturb.noisy(grey, 0.1, 0) - grey).std()) == pytest.approx(0.1, rel=0.05)
    split = torch.zeros(8, 1, 20, 20)
    split[:, :, ::2] = 1.0  # mean 1/2: what is covered is grey
    covered = disturb.occluded(split, 0.25, 0) == 0.5
    assert [int(one.sum()) for one in covered] == [100] * 8
    assert len({tuple(one.nonzero()[0].tolist()) for one in covered}) > 1


def test_blur_keeps_the_mean_and_small_things_lie_in_the_middle():
    dot = torch.zeros(1, 1, 21, 21)
    dot[0, 0, 10, 10] = 1.0
    soft = disturb.blurred(dot, 1.0, 0)
    assert float(soft.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(soft.max()) == pytest.approx(1 / (2 * torch.pi), rel=0.05)
    full = torch.zeros(1, 1, 20, 20)
    full[:, :, 1:-1, 1:-1] = 1.0
    small = disturb.smaller(full, 0.5, 0)
    assert float(small[:, :, :5].abs().max()) == 0.0
    assert float(small[0, 0, 10, 10]) == pytest.approx(1.0)
    assert float(small.sum()) == pytest.approx(18 * 18 / 4, rel=0.05)


class Blocks(Trunk):
    """Convolutions of 3 x 3, one a block."""

    def __init__(self, depth):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)) for _ in range(depth))
        for block in self.blocks:
            nn.init.ones_(block[0].weight)
        self.summary_widths, self.map_widths, self.strides = (1,), (1,), (1,)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_the_field_of_convolutions_is_that_of_a_walk():
    """Each 3 x 3 of ones adds the variance 2/3 along each axis, and nothing is seen beyond its reach."""
    found = field.fields(Blocks(3), torch.rand(2, 1, 21, 21))
    for depth, one in enumerate(found, 1):
        assert float(one.sum()) == pytest.approx(1.0)
        assert field.radius(one) == pytest.approx((2 * depth * 2 / 3) ** 0.5)
        seen = one.nonzero()
        assert (seen.max(0).values - seen.min(0).values).tolist() == [2 * depth, 2 * depth]


def test_an_even_field_has_the_radius_of_the_square():
    assert field.even((28, 28)) == pytest.approx((2 * (28**2 - 1) / 12) ** 0.5)


def test_attention_sees_the_whole_image_from_its_first_block():
    found = field.fields(vit(), torch.rand(2, 1, 28, 28))
    assert len(found) == 2
    assert int((found[0] > 0).sum()) == 28 * 28


def of(**values):
    return {name: [v - 0.005, v, v + 0.005] for name, v in values.items()}


def test_differences_within_the_spread_are_none():
    assert words.apart([0.8, 0.82], [0.7, 0.72]) == 1
    assert words.apart([0.7, 0.72], [0.8, 0.82]) == -1
    assert words.apart([0.7, 0.8], [0.72, 0.83]) == 0
    assert words.apart([0.72], [0.7]) == 0
    assert words.apart([0.8], [0.7]) == 1


def test_what_is_said_of_hunger():
    closing = {0.01: of(ResNet=0.8, ViT=0.6), 1.0: of(ResNet=0.9, ViT=0.89)}
    first, second, third, last = words.efficiency(closing)
    assert first == "With 1% of the images: ResNet 80.0 %, ViT 60.0 %; ResNet is clearly first."
    assert "no clear difference between ResNet and ViT" in second
    assert (
        "20.0 points behind the ResNet with 1% and 1.0 points behind it with 100%: the gap closes, as expected" in third
    )
    assert "help ViT most (+29.0 points) and ResNet least (+10.0)" in last
    widening = {0.01: of(ResNet=0.5, ViT=0.6), 1.0: of(ResNet=0.9, ViT=0.7)}
    assert "10.0 points ahead of the ResNet with 1% and 20.0 points behind" in words.efficiency(widening)[2]
    assert "the gap widens, against the textbook" in words.efficiency(widening)[2]
    level = {0.1: of(ResNet=0.5, ViT=0.4), 1.0: of(ResNet=0.6, ViT=0.5)}
    level[1.0]["ViT"] = [0.47, 0.5, 0.53]
    assert "does not change clearly" in words.efficiency(level)[2]
    assert (
        "no clear gain from 100 times the images for: ViT."
        in words.efficiency({**closing, 1.0: of(ResNet=0.9, ViT=0.602)})[3]
    )
    assert words.efficiency({1.0: of(ResNet=0.5, ViT=0.4)}) == [
        "With 100% of the images: ResNet 50.0 %, ViT 40.0 %; ResNet is clearly first."
    ]


def test_a_claim_fares_as_the_numbers_say():
    same = {p: of(ResNet=r, ViT=0.8) for p, r in ((8.0, 0.7), (1.0, 0.95), (4.0, 0.805), (2.0, 0.9))}
    first, second = words.shift(same)
    assert first == (
        "Shifted by 4 pixels, predictions stay the same for: ResNet 80.5 %, ViT 80.0 %; "
        "no clear difference between ResNet and ViT."
    )
    assert second.endswith("Here, in pixels, confirmed at 1 and 2; the other way round at 8; no clear difference at 4.")
    assert "Here it is the other way round" in words.texture(of(ResNet=0.4, ViT=0.5))[0]
    assert "Confirmed here (ViT 50.0 %" in words.noise(of(ResNet=0.4, ViT=0.5))[0]
    assert "Here the difference is within the spread of the seeds" in words.noise(of(ResNet=0.5, ViT=0.501))[0]


def test_what_is_left_is_counted_above_guessing():
    left = words.retained_accuracy({"a": [0.9, 0.1]}, {"a": [0.5, 0.5]}, 0.1)
    assert left["a"] == pytest.approx([0.5, 0.0])
    assert words.retained_accuracy({"a": [0.9]}, {"a": [0.05]}, 0.1)["a"] == [0.0]


def test_what_is_said_of_frequencies():
    said = words.frequencies(of(ResNet=0.8, ViT=0.2, Swin=0.5), of(ResNet=0.2, ViT=0.8, Swin=0.5))[0]
    assert "ResNet: more with the low frequencies" in said
    assert "ViT: more with the high ones" in said
    assert "Swin: no clear difference" in said


def test_what_is_said_of_compute():
    macs = {"ResNet": 1.0, "ViT": 4.0}
    assert "None is clearly more accurate than the cheapest, ResNet." in words.compute(of(ResNet=0.9, ViT=0.8), macs)[0]
    assert (
        "None is clearly more accurate than the cheapest, ResNet." in words.compute(of(ResNet=0.8, ViT=0.805), macs)[0]
    )
    assert (
        "ViT is the most accurate and costs 4.0 times as much as ResNet"
        in words.compute(of(ResNet=0.8, ViT=0.9), macs)[0]
    )


def test_what_is_said_of_fields():
    said = words.fields({"ViT": [[8.0, 10.0]] * 2, "ResNet": [[2.0, 8.0]] * 2}, 11.4)
    assert said[0].endswith("ViT 8.0 and 10.0, ResNet 2.0 and 8.0.")
    growth = "from the first block to the last the ViT's radius grows 1.2 times and the ResNet's 4.0"
    assert f"Confirmed for the first block; {growth}" in said[1]
    assert "other way round" in words.fields({"ViT": [[2.0, 3.0]] * 2, "ResNet": [[8.0, 9.0]] * 2}, 11.4)[1]


def test_the_whole_study_in_seconds(own_folder):
    npz(own_folder / "tiny.npz")
    must("study", "cnn-vs-vit", *shlex.split(SMALL), "--out", "here")
    here = own_folder / "here"
    rows = json.loads((here / "results.json").read_text())["rows"]
    assert [(row["model"], row["share"]) for row in rows] == [(m, s) for s in (0.5, 1.0) for m in study.MODELS]
    for row in rows:
        for one in row["trainings"]:
            assert ("shift" in one) == (row["share"] == 1.0)
            assert 0 <= one["accuracy"] <= 1
    page = (here / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "Shape or texture" in page
    assert "http" not in re.sub(r"http-equiv|data:image[^\"]*", "", page)
    told = (here / "table.md").read_text()
    assert "| ResNet | " in told
    assert "| patch shuffle, retained | " in told
    assert {p.name for p in here.glob("*.svg")} == {"hunger.svg", "shift.svg", "disturbed.svg", "fields.svg"}
    refused(own_folder, "study cnn-vs-vit --shares 2", 2, "at most 1")
    refused(own_folder, "study cnn-vs-vti", 2, "did you mean 'cnn-vs-vit'")
