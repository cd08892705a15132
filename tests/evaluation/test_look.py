"""What is seen on images lies where it is, for every family, whatever was done to make them fit; what it seems is said
in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import NO_SOFTMAX, shaken

from vitrail.analysis import inspection, sentences
from vitrail.analysis.distance import Profile
from vitrail.analysis.overlay import compute_extent, find_visible_area, overlay_map
from vitrail.analysis.positions import Bias, Similarity
from vitrail.data.dataset import Split
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage, UsageError
from vitrail.evaluation import look
from vitrail.inference.predictor import Predictor
from vitrail.models import dit, jit
from vitrail.recipe import Choice, InputConfig, Recipe
from vitrail.tasks import classification, diffusion

HALF = (0.5,) * 3


def predictor(family, size=(64, 64), resize="stretch", classes=("ant", "bee", "cow"), **keys):
    """A model of chance with a head, as it would come from a run."""
    task = classification.build(classification.Config(len(classes)))
    net = task.assemble(shaken(family, **keys)).eval()
    torch.nn.init.normal_(net.head.weight if hasattr(net, "head") else list(net.parameters())[-2], std=0.5)
    given = InputConfig(size=size, channels=3, mean=HALF, std=HALF, resize_mode=resize)
    return Predictor(net, classes, Recipe(model=Choice(family), input=given), task, Path("run"))


def noise(height=64, width=64, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def split(count=6, bad=()):
    def read(i):
        if i in bad:
            raise BadImage(f"{i}.png is cut short")
        return noise(seed=i)

    return Split([str(i) for i in range(count)], np.arange(count) % 3, read)


@pytest.mark.parametrize("family", ["vit", "deit", "swin", "pvt", "crossvit", "mobilevit", "resnet", "efficientvit"])
def test_every_family_is_looked_at_in_its_way(family):
    size = (60, 60) if family == "crossvit" else (64, 64)
    model = predictor(family, size)
    image = noise(50, 90)
    (sight,) = look.compute_maps(model, image)
    names = [one.name for one in sight.maps]
    found = look.available_maps(model)
    assert found.attention == (family not in NO_SOFTMAX)
    assert ("gradient-cam" in names) == found.cam == (family in {*NO_SOFTMAX, "crossvit"})
    assert ("rollout" in names and "relevance" in names) == found.rollout
    assert any(name.endswith("-mean") for name in names) == found.attention
    assert sight.prediction.split()[0] in model.classes
    for one in sight.maps:
        drawn = sight.overlay(one)
        assert drawn.shape == (50, 90, 3)
        assert torch.isfinite(one.values).all()


def test_layers_heads_and_classes_are_those_that_were_asked_for():
    model = predictor("vit")
    names = [one.name for one in look.compute_maps(model, noise(), [-1], [0, 3])[0].maps]
    assert names == ["blocks.1.attn-head-0", "blocks.1.attn-head-3", "rollout", "relevance"]
    assert len(look.compute_maps(model, noise(), None, None)[0].maps) == 2 * 4 + 2
    one, other = (look.compute_maps(model, noise(), label=name)[0].maps[-1].values for name in ("ant", "bee"))
    assert not torch.equal(one, other)
    for wrong in ({"layers": [7]}, {"heads": [9]}, {"label": "bea"}):
        with pytest.raises(UsageError):
            look.compute_maps(model, noise(), **wrong)
    with pytest.raises(UsageError, match="no softmax attention"):
        look.compute_maps(predictor("resnet"), noise(), layers=[0])


def test_a_bright_cell_is_where_it_is_on_the_image():
    heat = torch.zeros(4, 4)
    heat[0, 3] = 1
    for resize, height, width in (("stretch", 40, 80), ("fit", 40, 80), ("crop", 40, 80), ("fit", 80, 40)):
        pre = Preprocess((32, 32), 3, HALF, HALF, resize_mode=resize)
        place = find_visible_area(pre, height, width)
        drawn = overlay_map(np.zeros((height, width, 3), np.uint8), heat, pre, (32, 32)).sum(2)
        top, right = np.unravel_index(drawn.argmax(), drawn.shape)
        if resize == "fit" and width < height:
            assert place.canvas == (32, 16)  # the bright cell lies on padding: nothing of it is on the image
            continue
        assert top <= place.rows.start + height // 3
        assert abs(right - (place.columns.stop - 1)) <= width // 4
    cropped = find_visible_area(Preprocess((32, 32), 3, HALF, HALF, resize_mode="crop", crop_ratio=1.0), 40, 80)
    assert (cropped.rows, cropped.columns) == (slice(0, 40), slice(20, 60))
    drawn = overlay_map(
        np.zeros((40, 80, 3), np.uint8),
        heat,
        Preprocess((32, 32), 3, HALF, HALF, resize_mode="crop", crop_ratio=1.0),
        (32, 32),
    )
    assert not drawn[:, :20].any()
    assert not drawn[:, 60:].any()
    assert drawn[:, 20:60].any()


def test_cells_that_reach_over_the_edge_cover_more_than_the_image():
    assert compute_extent(shaken("vit"), (60, 60), (8, 8)) == (64, 64)
    assert compute_extent(shaken("vit"), (64, 64), (8, 8)) == (64, 64)


def test_images_of_the_data_are_spread_and_unreadable_ones_passed_over():
    model = predictor("vit")
    assert look.spaced_indices(split(100), 3) == [0, 49, 99]
    sizes = [len(batch) for batch in look.read_batches(model, split(20, bad=(3,)), 20)]
    assert sum(sizes) == 19
    assert min(sizes) >= 4
    with pytest.raises(BadImage):
        list(look.read_batches(model, split(2, bad=(0, 1)), 2))
    with pytest.raises(UsageError, match="no images"):
        list(look.read_batches(model, split(0), 2))


def test_each_look_inside_has_arrays_a_figure_and_words():
    model, data = predictor("vit"), split()
    batches = [*look.read_batches(model, data, 6)]
    found = [
        inspection.inspect_distance(model.model, batches), inspection.inspect_positions(model.model),
        inspection.inspect_filters(model.model, 4),
        inspection.inspect_tokens(model.model, batches, [noise(), noise(seed=1)]),
        inspection.inspect_cka(model.model, batches),
        inspection.inspect_gradients(model.model, look.loss_on_batch(model, data, 6)),
    ]  # fmt: skip
    for one in found:
        assert one.arrays
        assert one.figures
        assert all(sentence.endswith(".") for sentence in one.sentences)
    far = found[0]
    assert len(far.table) == 1 + 2 * 4
    assert far.arrays["distance/backbone.blocks.0.attn"].shape == (4,)
    np.testing.assert_allclose(far.arrays["even"], far.arrays["even"][0])
    assert list(found[3].figures) == ["", "image-0", "image-1"]
    np.testing.assert_allclose(np.diag(found[4].arrays["cka"]), 1, atol=1e-5)
    assert found[5].arrays["gradient"].min() > 0
    assert inspection.inspect_cka(model.model, batches, predictor("resnet").model).arrays["cka"].shape[0] == 2


def test_even_attention_looks_as_far_as_even_attention():
    model = shaken("vit")
    for block in model.blocks:
        block.attn.qkv.weight.data.zero_()
        block.attn.qkv.bias.data.zero_()
    found = inspection.inspect_distance(model, [torch.randn(2, 3, 64, 64)])
    np.testing.assert_allclose(found.arrays["distance/blocks.0.attn"], found.arrays["even"][0], rtol=1e-4)
    assert any("hardly changes" in sentence for sentence in found.sentences)
    assert any("all of them are global" in sentence for sentence in found.sentences)


def test_sentences_say_what_the_numbers_are():
    def layer(*far):
        return Profile("a", torch.tensor(far), torch.ones(len(far)), torch.tensor([0.5] * len(far)))

    words = " ".join(
        sentences.describe_distances([layer(1.0, 9.5), layer(4.0, 5.0), layer(6.0, 7.0), layer(8.0, 9.0)], [10.0] * 4)
    )
    assert "5.2 pixels in the first layer and 8.5 in the last; it grows with depth" in words
    assert "4 of 4 heads of the later half" in words
    assert "1 of the 2 heads of the first layer" in words
    assert "some of them are global" in words
    falling = sentences.describe_distances([layer(9.0), layer(5.0), layer(1.0)], [10.0] * 3)
    assert "it falls with depth" in falling[0]
    nowhere = Profile("a", torch.tensor([float("nan")]), torch.ones(1), torch.ones(1))
    assert "no distance" in sentences.describe_distances([nowhere], [float("nan")])[0]
    assert sentences.rank_correlation([3.0, 3.0, 3.0]) == 0.0
    np.testing.assert_allclose(sentences.rank_values(np.array([5.0, 1.0, 5.0])), [2.5, 1.0, 2.5])


def test_near_and_far_places():
    line = torch.arange(4.0)
    near = torch.exp(-(line[:, None] - line).abs())
    table = Similarity("position", (near[:, None, :, None] * near[None, :, None, :]).contiguous(), "table")
    direct, distant = table.near_and_far()
    assert direct == pytest.approx(np.exp(-1), abs=1e-6)
    assert distant < np.exp(-2) + 1e-6
    assert "somewhat more similar" in table.sentences()[0]
    bias = -torch.arange(-3, 4).abs().float()[None, :, None] - torch.arange(-3, 4).abs().float()[None, None]
    assert "1 of 2 heads have a larger bias" in Bias("a", torch.cat([bias, -bias])).sentences()[0]


def maker(family, **keys):
    """A denoiser of chance for three classes, as it would come from a run."""
    small = {"width": 32, "depth": 2, "heads": 2, "patch": 4, "size": (12, 20), "channels": 3, "classes": 3, **keys}
    torch.manual_seed(0)
    module = {"dit": dit, "jit": jit}[family]
    net = module.build(module.Config(**small))
    with torch.no_grad():  # from zeros, nothing depends on the time
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    task = diffusion.build(diffusion.Config("flow" if family == "jit" else "gaussian", classes=3))
    given = InputConfig(size=(12, 20), channels=3, mean=HALF, std=HALF, resize_mode="stretch")
    return Predictor(net.eval(), ("ant", "bee", "cow"), Recipe(model=Choice(family), input=given), task, Path("run"))


@pytest.mark.parametrize("family", ["dit", "jit"])
def test_denoisers_are_looked_at_at_times(family):
    one = maker(family, **({"context": 3, "context_start": 1, "bottleneck": 8} if family == "jit" else {}))
    image = noise(12, 20)
    (sight,) = look.compute_maps(one, image, times=[0, 0.5, 1], label="bee")
    names = [m.name for m in sight.maps]
    assert len(names) == len(set(names)) == 3 * 2
    assert all(
        name.startswith(start) for name, start in zip(names, ["0-"] * 2 + ["0.5-"] * 2 + ["1-"] * 2, strict=True)
    )
    assert all(tuple(m.values.shape) == (3, 5) for m in sight.maps)
    assert sight.overlay(sight.maps[0]).shape == (12, 20, 3)
    assert sight.prediction == ""
    (other,) = look.compute_maps(one, noise(12, 20, seed=1), times=[0, 1], label="bee")
    assert torch.equal(other.maps[0].values, sight.maps[0].values) == (family == "jit"), (
        "noise alone is the same for every image"
    )
    assert not torch.equal(other.maps[2].values, sight.maps[4].values)
    assert [m.name.split("-")[0] for m in look.compute_maps(one, image)[0].maps[::2]] == ["0.2", "0.5", "0.8"]
    with pytest.raises(UsageError, match="a time cannot be 2"):
        look.compute_maps(one, image, times=[2])
    with pytest.raises(UsageError, match="takes no times"):
        look.compute_maps(predictor("vit"), noise(), times=[0.5])
