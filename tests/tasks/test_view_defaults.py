"""What tasks on crops choose for images of any size, and which settings they refuse."""

import dataclasses

import pytest

from vitrail.assembly.defaults import fill_recipe
from vitrail.assembly.resolve import Names
from vitrail.errors import UsageError
from vitrail.facts import Facts
from vitrail.recipe import AugmentConfig, Choice, InputConfig, OptimConfig, Recipe, TrainConfig
from vitrail.tasks._defaults.views import DistillationDefaults, EmbeddingDefaults


def filled(defaults, side, channels=3, count=12_800, gpu=False, **sections):
    facts = Facts(count, (side, side), True, channels, (0.5,) * channels, (0.2,) * channels, True, gpu)
    return fill_recipe(Recipe(**sections), facts, defaults, Names().model_config)


def test_photographs_on_a_gpu_get_the_published_crops():
    recipe, _ = filled(DistillationDefaults(), 400, count=1_281_167, gpu=True)
    assert recipe.task.keys["local_size"] == 96
    assert recipe.task.keys["prototypes"] == 65_536
    assert not {"local_crops", "local_scale", "blur", "hidden"} & set(recipe.task.keys)
    assert (recipe.optim.ema_decay, recipe.optim.weight_decay, recipe.optim.name) == (0.996, 0.04, "adamw")


def test_small_images_get_larger_local_crops_and_a_smaller_head():
    recipe, reasons = filled(DistillationDefaults(), 32)
    keys = recipe.task.keys
    assert (keys["local_crops"], keys["local_scale"], keys["blur"], keys["hidden"]) == (4, (0.15, 0.5), 0.0, 512)
    assert keys["local_size"] < 32
    assert keys["prototypes"] == 1024
    assert any(reason.startswith("task.prototypes = 1024: about an eighth of 12,800 images") for reason in reasons)
    assert "solarize" not in keys
    assert recipe.augment.hflip is True


def test_grey_images_are_not_inverted_and_tiny_ones_have_no_local_crops():
    recipe, _ = filled(EmbeddingDefaults(), 28, channels=1)
    assert (recipe.task.keys["solarize"], recipe.task.keys["color_jitter"]) == (0.0, 0.4)
    keys = filled(DistillationDefaults(), 28, channels=1)[0].task.keys
    assert (keys["global_scale"], keys["local_scale"]) == ((0.6, 1.0), (0.3, 0.7)), "they are centred"
    recipe, _ = filled(EmbeddingDefaults(), 8, model=Choice("vit/nano", {"patch": 4}))
    assert recipe.task.keys["local_crops"] == 0


def test_what_is_given_stays():
    given = {"task": Choice("", {"local_crops": 7}), "optim": OptimConfig(ema_decay=0.9)}
    recipe, _ = filled(DistillationDefaults(), 32, **given)
    assert recipe.task.keys["local_crops"] == 7
    assert recipe.optim.ema_decay == 0.9


@pytest.mark.parametrize(("model", "first"), [("vit/tiny", 0.98), ("vit/nano", 0.9)])
def test_the_teacher_of_a_short_run_averages_over_less(model, first):
    found = [
        filled(DistillationDefaults(), 32, model=Choice(model), train=TrainConfig(steps=steps))[0].optim.ema_decay
        for steps in (100, 4_000, 20_000)
    ]
    assert found == [first, 0.99, 0.996]


def test_the_targets_of_small_models_are_balanced_and_cold():
    keys = filled(DistillationDefaults(), 32, model=Choice("vit/nano"))[0].task.keys
    assert (keys["centering"], keys["teacher_temperature"], keys["teacher_temperature_start"]) == (
        "sinkhorn",
        0.02,
        0.02,
    )
    published = filled(DistillationDefaults(), 32, model=Choice("vit/tiny"))[0].task.keys
    assert not {"centering", "teacher_temperature", "teacher_temperature_start"} & set(published)
    for given in ({"centering": "mean"}, {"teacher_temperature": 0.04}):
        recipe, _ = filled(DistillationDefaults(), 32, model=Choice("vit/nano"), task=Choice("", given))
        assert "teacher_temperature_start" not in recipe.task.keys
        assert recipe.task.keys.items() >= given.items()


GIVEN = {
    "augment.crop": {"augment": AugmentConfig(crop="pad")},
    "augment.mixup": {"augment": AugmentConfig(mixup=0.2)},
    "augment.color_jitter": {"augment": AugmentConfig(color_jitter=0.1)},
    "augment.repeated_aug": {"augment": AugmentConfig(repeated_aug=2)},
    "train.start_size": {"train": TrainConfig(start_size=(16, 16))},
    "input.resize_mode": {"input": InputConfig(resize_mode="tile")},
    "optim.ema_decay": {"optim": OptimConfig(ema_decay=0.0)},
}


@pytest.mark.parametrize("name", GIVEN)
def test_settings_without_effect_are_refused(name):
    with pytest.raises(UsageError, match=name):
        DistillationDefaults().check(Recipe(**GIVEN[name]))


def test_flips_are_taken_and_one_image_is_no_batch():
    given = Recipe(augment=AugmentConfig(hflip=False, vflip=True), train=TrainConfig(batch_size=2))
    EmbeddingDefaults().check(given)
    with pytest.raises(UsageError, match="no distribution"):
        EmbeddingDefaults().check(dataclasses.replace(given, train=TrainConfig(batch_size=1)))
