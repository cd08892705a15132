"""Teachers: who may teach, what they are shown, and what is kept of what they say."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from vitrail.assembly.model import create_model
from vitrail.data.sampling import Keys
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference import predictor
from vitrail.recipe import Choice
from vitrail.training import teacher

GREY = Preprocess((12, 12), 1, (0.5,), (0.25,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def taught(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 3}), out))
    return out


def student(data, taught, **keys):
    made = tiny.recipe(
        data, augment={"mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0, "crop": "none", "hflip": False}
    )
    return dataclasses.replace(made, task=Choice("distillation", {"teacher": str(taught), **keys}))


def test_sees_the_same_image_in_its_own_range(data, taught):
    own = predictor.load_predictor(taught)
    found = teacher.build_teacher(student(data, taught), own.classes, GREY, 48, torch.device("cpu"))
    pixels = torch.randint(0, 256, (3, 1, 12, 12), dtype=torch.uint8)
    keys = Keys(np.zeros(3, np.int64), np.arange(3))
    said = found(GREY.batch(pixels), keys)
    torch.testing.assert_close(said, own.model(own.preprocess.batch(pixels)), rtol=1e-4, atol=1e-5)


def test_classes_go_by_name(data, taught):
    own = predictor.load_predictor(taught)
    turned = tuple(reversed(own.classes))
    keys, images = Keys(np.zeros(2, np.int64), np.arange(2)), torch.randn(2, 1, 12, 12)
    one, other = (
        teacher.build_teacher(student(data, taught), c, GREY, 48, torch.device("cpu"))(images, keys)
        for c in (own.classes, turned)
    )
    assert torch.equal(one.flip(1), other)
    with pytest.raises(UsageError, match="has no class 'zebra'"):
        teacher.build_teacher(student(data, taught), ("zebra", *own.classes[1:]), GREY, 48, torch.device("cpu"))


def test_a_run_with_a_teacher_is_the_same_after_a_kill_and_keeps_no_teacher(data, taught, tmp_path):
    made = dataclasses.replace(tiny.recipe(data), task=Choice("distillation", {"teacher": str(taught)}))
    tiny.finish(tiny.begin(made, tmp_path / "whole"))
    running = tiny.begin(made, tmp_path / "broken")
    from vitrail.training import loop

    for event in loop.run_training(running):
        if event.kind == "saved" and event.step == 6:
            break
    tiny.finish(tiny.again(tmp_path / "broken"))
    assert tiny.digest(tmp_path / "whole" / "model.safetensors") == tiny.digest(
        tmp_path / "broken" / "model.safetensors"
    )
    alone = predictor.load_predictor(tmp_path / "whole" / "model.safetensors")
    assert alone.task.config.teacher == ""
    assert str(taught).encode() not in (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_answers_are_kept_and_taken_from_the_file(data, taught, tmp_path, monkeypatch):
    made = student(data, taught, keep=str(tmp_path / "answers"))
    tiny.finish(tiny.begin(made, tmp_path / "one"))
    assert len(list((tmp_path / "answers").glob("*.npy"))) == 1
    rows = np.load(next((tmp_path / "answers").glob("*.npy")))
    assert rows.shape == (1, 48, 3), "without chance in the images one answer each is all there is"
    assert not np.isnan(rows).any()

    def asked(*given):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(teacher.Teacher, "prepare_images", asked)
    tiny.finish(tiny.begin(made, tmp_path / "two"))
    assert tiny.digest(tmp_path / "one" / "model.safetensors") == tiny.digest(tmp_path / "two" / "model.safetensors")


def test_answers_depend_on_what_is_shown(data, taught, tmp_path):
    made = student(data, taught, keep=str(tmp_path))
    for changed in (made, dataclasses.replace(made, augment=dataclasses.replace(made.augment, hflip=True)),
                    dataclasses.replace(made, train=dataclasses.replace(made.train, seed=1),
                                        augment=dataclasses.replace(made.augment, hflip=True))):  # fmt: skip
        teacher.build_teacher(changed, predictor.load_predictor(taught).classes, GREY, 48, torch.device("cpu"))
    assert sorted(np.load(p).shape[0] for p in tmp_path.glob("answers-*.npy")) == [1, 4, 4], (
        "12 steps of 16 are 4 showings of 48"
    )


def test_mixed_images_cannot_be_kept(data, taught, tmp_path):
    made = dataclasses.replace(
        tiny.recipe(data), task=Choice("distillation", {"teacher": str(taught), "keep": str(tmp_path)})
    )
    with pytest.raises(UsageError, match="MixUp and CutMix"):
        tiny.begin(made, tmp_path / "run")


def test_a_library_model_with_a_file_of_weights(data, taught, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(theirs.state_dict(), tmp_path / "r.safetensors")
    made = student(data, "timm:resnet10t", teacher_weights=str(tmp_path / "r.safetensors"))
    found = teacher.build_teacher(
        made, ("0", "1", "2"), Preprocess((32, 32), 1, (0.5,), (0.25,)), 48, torch.device("cpu")
    )
    images = torch.rand(2, 1, 32, 32)
    normal = (images - 0.5) / 0.25
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = theirs((images.expand(-1, 3, -1, -1) - mean) / std)
    torch.testing.assert_close(found(normal, Keys(np.zeros(2, np.int64), np.arange(2))), wanted, rtol=1e-4, atol=1e-5)


def test_mistakes_are_told(data, taught, tmp_path):
    classes = ("a", "b", "c")
    for name, error, told in (
        ("", UsageError, "needs a teacher"),
        ("timm:resnet18000", UsageError, "no model"),
        ("torchvision:resnet18", UsageError, "has 1000 classes, the data has 3"),
        (str(tmp_path / "nothing"), CheckpointError, "no run"),
    ):
        with pytest.raises(error, match=told):
            teacher.build_teacher(student(data, name), classes, GREY, 48, torch.device("cpu"))
    torch.manual_seed(0)
    save_file(create_model("resnet/18", 3, {}).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit torchvision's resnet18"):
        teacher.build_teacher(student(data, "torchvision:resnet18",
                                      teacher_weights=str(tmp_path / "other.safetensors")), classes, GREY, 48,
                     torch.device("cpu"))  # fmt: skip
