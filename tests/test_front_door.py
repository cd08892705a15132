"""The public names are a contract: what `import vitrail` gives, what it takes, what it says when that is wrong."""

import dataclasses
import io
import json
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.errors import BadImage, CheckpointError, DataError, UsageError
from vitrail.models.vit import Config

TINY = {"width": 32, "depth": 1, "heads": 2, "size": (12, 12), "patch": 4}


def fresh(code):
    """Runs code in a Python that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names():
    assert {"__version__", "backbone", "cost", "create", "load", "models", "save"} <= set(vitrail.__all__)
    assert vitrail.__all__ == sorted(vitrail.__all__)
    for name in vitrail.__all__:
        assert getattr(vitrail, name).__doc__
    assert all(callable(getattr(vitrail, name)) for name in vitrail.__all__ if name != "__version__")


def test_import_is_light_and_a_list_imports_no_family():
    seen = fresh("import sys, vitrail; vitrail.models(); vitrail.models('vit'); print(' '.join(sys.modules))").split()
    assert not {"torch", "numpy", "PIL", "torchvision", "tyro", "rich", "pydantic"} & set(seen)
    assert not [name for name in seen if name.startswith("vitrail.models.")]


def test_models_can_be_called_after_a_family_was_imported():
    """`import vitrail.models.vit` must not put the folder in the place of the function."""
    code = "import vitrail; vitrail.backbone('vit/nano'); from vitrail.models import vit; "
    output = fresh(code + "print(vitrail.models('vit') == ['vit/' + v for v in vit.VARIANTS])")
    assert output.strip() == "True"


def test_models():
    assert "vit/base" in vitrail.models()
    assert vitrail.models("vit")[0] == "vit/nano"
    assert vitrail.models("vit/base") == ["vit/base"]
    with pytest.raises(ValueError, match="did you mean 'vit'"):
        vitrail.models("vitt")


def test_create_gives_logits_and_backbone_features():
    images = torch.rand(2, 1, 12, 12)
    assert vitrail.create("vit/nano", classes=3, channels=1, **TINY)(images).shape == (2, 3)
    features = vitrail.backbone("vit/nano", channels=1, **TINY)(images)
    assert features.summaries[0].shape == (2, 32)
    assert features.maps[0].shape == (2, 32, 3, 3)
    assert vitrail.create("vit/nano", **TINY)(torch.rand(1, 3, 12, 12)).shape == (1, 1000)


OTHER = {  # a value for each field that is not the default; others are found by their type
    "width": 48, "depth": 2, "heads": 4, "mlp_ratio": 2.0, "patch": 2, "size": (8, 12), "channels": 1, "stem": "patch",
    "tokens": 2,
    "registers": 3, "position": "sincos2d", "position_tokens": False, "position_join": "concat",
    "position_init": "xavier",
    "rope_base": 10.0, "pre_logits": 16, "pre_logits_act": "relu", "mlp": "swiglu", "gelu": "tanh", "norm_at": "post",
    "residual": False, "eps": 1e-5, "qkv_bias": False, "qk_norm": True, "layer_scale": 0.1, "dropout": 0.1,
    "attention_dropout": 0.1, "drop_path": 0.1, "map_depths": (1,), "global_blocks": (1,),
}  # fmt: skip


def another(field):
    """A value for a field that is not the default: from the table, or by its type."""
    if field.name in OTHER:
        return OTHER[field.name]
    kind = typing.get_type_hints(Config)[field.name]
    choices = [
        v for k in (kind, *typing.get_args(kind)) if typing.get_origin(k) is typing.Literal for v in typing.get_args(k)
    ]
    if choices:
        return next(v for v in choices if v != field.default)
    kinds = {kind, *typing.get_args(kind)}
    return (
        not field.default
        if bool in kinds
        else 1 + int(field.default or 0)
        if int in kinds
        else 0.5 + float(field.default or 0)
    )


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda f: f.name)
def test_every_field_of_a_config_is_a_keyword(field):
    value = another(field)
    needed = {"window": 2} if field.name == "global_blocks" else {}  # there are none without
    made = vitrail.backbone("vit/nano", **{**TINY, **needed, field.name: value})
    assert getattr(made.config, field.name) == value
    assert all(torch.isfinite(s).all() for s in made.eval()(torch.rand(1, made.config.channels, 12, 12)).summaries)


def test_numbers_of_numpy_and_one_number_for_a_square():
    made = vitrail.backbone(
        "vit/nano", size=np.int64(16), patch=torch.tensor(4), width=np.int32(32), heads=2, mlp_ratio=2
    )
    assert (made.config.size, made.config.patch, made.config.mlp_ratio) == ((16, 16), 4, 2.0)
    assert vitrail.backbone("vit/nano", size=[8, 16]).config.size == (8, 16)


WRONG = [
    (("vit/nono",), {}, "did you mean 'vit/nano'"),
    (("vti/nano",), {}, "vit/nano"),
    (("vit",), {}, "did you mean vit/nano"),
    (("",), {}, "vitrail models lists"),
    ((None,), {}, "a name is a text"),
    (("vit/nano",), {"dept": 3}, "unknown key 'dept' in vit/nano; did you mean 'depth'"),
    (("vit/nano",), {"num_classes": 3}, "did you mean 'classes'"),
    (("vit/nano",), {"img_size": 3}, "did you mean 'size'"),
    (("vit/nano",), {"embed_dim": 3}, "did you mean 'width'"),
    (("vit/nano",), {"classes": 0}, "more than 0"),
    (("vit/nano",), {"classes": "x"}, "takes a whole number, not 'x'"),
    (("vit/nano",), {"width": 33, "heads": 2}, "heads that fit"),
    (("vit/nano",), {"heads": 0}, "more than 0"),
    (("vit/nano",), {"depth": -1}, "at least 0"),
    (("vit/nano",), {"depth": True}, "takes a whole number, not true"),
    (("vit/nano",), {"width": 4.5}, "takes a whole number, not 4.5"),
    (("vit/nano",), {"size": 0}, "more than 0"),
    (("vit/nano",), {"size": (8, 8, 8)}, "takes 2 whole numbers"),
    (("vit/nano",), {"dropout": float("nan")}, "not a finite number"),
    (("vit/nano",), {"dropout": 1}, "less than 1"),
    (("vit/nano",), {"position": "lerned"}, "did you mean 'learned'"),
    (("vit/nano",), {"patch": 3}, "not a power of two"),
]


@pytest.mark.parametrize(("names", "keys", "piece"), WRONG, ids=[f"{n[0]} {k}" for n, k, _ in WRONG])
def test_wrong_calls_are_value_errors_that_help(names, keys, piece):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        vitrail.create(*names, **keys)
    assert piece in str(told.value)
    assert isinstance(told.value, UsageError)


def test_cost():
    made = vitrail.create("vit/base")
    counted = vitrail.cost(made)
    assert {f.name for f in dataclasses.fields(counted)} == {
        "size", "batch", "parameters", "trainable", "macs", "attention_bytes", "activation_bytes", "parameter_bytes",
        "by_part"
    }  # fmt: skip
    assert counted.parameters == counted.trainable == 86_567_656
    assert counted.parameter_bytes == 4 * counted.parameters
    assert round(counted.macs / 1e9, 2) == 17.56
    assert all(0 < part <= counted.macs for part in counted.by_part.values())
    assert len(counted.lines()) == 5
    assert vitrail.cost(made, 112) == vitrail.cost(made, (112, 112))
    with pytest.raises(ValueError, match="more than 0"):
        vitrail.cost(made, 0)
    with pytest.raises(ValueError, match="2 whole numbers"):
        vitrail.cost(made, (3,))
    with pytest.raises(ValueError, match="a str is not a model"):
        vitrail.cost("vit/base")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return vitrail.create("vit/nano", classes=3, channels=3, **TINY)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return vitrail.save(model, tmp_path_factory.mktemp("models") / "mine", ["ant", "bee", "cow"])


@pytest.fixture(scope="module")
def trained(saved):
    return vitrail.load(saved)


def test_save_and_load_are_bit_equal(model, saved):
    found = vitrail.load(saved)
    assert found.classes == ("ant", "bee", "cow")
    assert found.recipe.model.name == "vit/nano"
    assert found.model.backbone.config == model.backbone.config
    mine, theirs = model.state_dict(), found.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not found.model.training


def test_what_was_loaded_can_be_saved_again_with_the_same_bytes(saved, tmp_path):
    again = vitrail.save(vitrail.load(saved), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert sorted(p.name for p in again.iterdir()) == ["manifest.json", "model.safetensors"]


def test_classes_are_numbered_where_they_have_no_names(model, tmp_path):
    assert vitrail.load(vitrail.save(model, tmp_path / "m")).classes == ("0", "1", "2")


def test_what_cannot_be_saved_is_told(model, saved, tmp_path):
    with pytest.raises(ValueError, match="never overwritten"):
        vitrail.save(model, saved)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        vitrail.save(model, tmp_path / "m", ["a", "b"])
    for names in (["a", "a", "b"], ["a", 3, "b"], ["a", "", "b"]):
        with pytest.raises(ValueError, match="give distinct texts"):
            vitrail.save(model, tmp_path / "m", names)
    with pytest.raises(ValueError, match="was not created by name"):
        vitrail.save(torch.nn.Linear(2, 2), tmp_path / "m")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        vitrail.save(model, tmp_path / "file" / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def test_predict_takes_images_of_any_kind_and_says_the_same_of_them(trained, tmp_path):
    pixels = noise(20, 30, 3)
    file = tmp_path / "x.png"
    Image.fromarray(pixels).save(file)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    ways = {
        "array": pixels, "float": pixels / 255, "float32": (pixels / 255).astype(np.float32),
        "uint16": pixels.astype(np.uint16) * 257,
        "path": file, "text": str(file), "bytes": file.read_bytes(), "open file": file.open("rb"),
        "in memory": io.BytesIO(file.read_bytes()),
        "PIL": Image.fromarray(pixels), "tensor": tensor, "float tensor": tensor / 255,
        "with gradient": (tensor / 255).requires_grad_(),
        "not contiguous": np.asfortranarray(pixels), "read only": np.frombuffer(pixels.tobytes(),
                                                                                np.uint8).reshape(pixels.shape),
    }  # fmt: skip
    wanted = trained.predict(pixels)
    assert wanted.labels[0] in trained.classes
    assert wanted.probabilities.shape == (1, 3)
    assert wanted.probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    for name, way in ways.items():
        assert torch.equal(trained.predict(way).probabilities, wanted.probabilities), name
    ways["open file"].close()
    assert trained.predict((tensor / 255).bfloat16()).labels == wanted.labels


def test_predict_takes_grey_and_mixed_sizes_and_keeps_their_order(trained):
    grey = noise(9, 14)
    one = trained.predict(grey).probabilities
    for way in (
        grey[:, :, None],
        np.repeat(grey[:, :, None], 3, axis=2),
        Image.fromarray(grey),
        torch.from_numpy(grey)[None],
    ):
        assert torch.equal(trained.predict(way).probabilities, one)
    images = [noise(20, 30, 3), grey, torch.rand(3, 12, 12), Image.fromarray(noise(1, 1, 3)), noise(5, 300, 4)]
    together = trained.predict(images, batch=2).probabilities
    alone = torch.cat([trained.predict(p).probabilities for p in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    for many in (tuple(images), (p for p in images)):
        torch.testing.assert_close(trained.predict(many).probabilities, together, rtol=1e-5, atol=1e-6)
    stack = noise(4, 12, 12, 3)
    as_tensors = torch.from_numpy(stack).permute(0, 3, 1, 2)
    assert torch.equal(trained.predict(stack).probabilities, trained.predict(as_tensors).probabilities)


def test_predict_of_nothing_is_nothing(trained):
    for nothing in ([], torch.zeros(0, 3, 12, 12), iter(())):
        found = trained.predict(nothing)
        assert (found.labels, found.probabilities.shape) == ([], (0, 3))


def test_predict_leaves_the_mode_of_the_model_alone(saved):
    found = vitrail.load(saved)
    found.model.train()
    found.predict(noise(5, 5, 3))
    assert found.model.training


NO_IMAGES = {
    "a number": 3, "nothing": None, "a list of nothing": [None], "a table": {"a": 1},
    "lists of numbers": [[1, 2], [3, 4]],
    "whole numbers": noise(5, 5, 3, dtype=np.int64), "too bright": noise(5, 5, 3, dtype=float),
    "dark": -np.ones((5, 5, 3)),
    "not finite": np.full((5, 5, 3), np.nan), "truth": noise(5, 5, 3) > 9, "objects": np.array([["a"]], object),
    "a point": np.array(3),
    "no pixels": np.zeros((0, 0, 3), np.uint8), "a line": np.zeros(5, np.uint8), "a volume": torch.zeros(1, 1, 3, 5, 5),
    "a flat tensor": torch.rand(5, 5), "channels last": torch.rand(20, 30, 3), "two channels": noise(5, 5, 2),
    "five": noise(5, 5, 5),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_IMAGES)
def test_predict_says_what_is_no_image(trained, what):
    with pytest.raises(UsageError, match=r"give (a path|uint8)"):
        trained.predict(NO_IMAGES[what])


@pytest.mark.parametrize("source", ["nothere.png", b"nothing", "tests/cli/places.py"])
def test_predict_names_a_bad_image(trained, source):
    with pytest.raises(BadImage):
        trained.predict(source)


def test_predict_wants_a_batch(trained):
    with pytest.raises(ValueError, match="batch takes a whole number more than 0"):
        trained.predict([], batch=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, made as the command makes it."""
    from vitrail.cli.main import main

    root = tmp_path_factory.mktemp("runs")
    keys = [
        "--model.width",
        "32",
        "--model.depth",
        "1",
        "--model.heads",
        "2",
        "--steps",
        "4",
        "--runtime.save-every",
        "2",
    ]
    np.savez(root / "tiny.npz", train_images=noise(24, 12, 12), train_labels=np.arange(24) % 3)
    code = main(
        [
            "train",
            "--data",
            str(root / "tiny.npz"),
            "--out",
            str(root / "runs" / "a"),
            "--model",
            "vit/nano",
            "--quiet",
            *keys,
        ]
    )
    assert code == 0
    return root / "runs" / "a"


def test_load_from_whatever_belongs_to_a_run(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    image = noise(12, 12)
    wanted = vitrail.load(run).predict(image).probabilities
    newest = run / "checkpoints" / "step-00000004"
    for source in ("a", "runs/a", str(run), run / "model.safetensors", newest):
        found = vitrail.load(source)
        assert torch.equal(found.predict(image).probabilities, wanted), source
        assert found.classes == ("0", "1", "2")
        assert found.recipe.input.size == (12, 12)
    older = vitrail.load(run / "checkpoints" / "step-00000002")
    assert not torch.equal(older.predict(image).probabilities, wanted)


def test_a_model_file_tells_nothing_of_the_machine_that_made_it(run):
    """No path, no word of a command line."""
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["vitrail"])["about"]
    assert str(run.parents[1]) not in json.dumps(about)
    assert about["recipe"]["data"] == {"name": "npz"}


def test_load_says_what_is_missing_or_wrong(saved, tmp_path):
    for source, piece in (
        ("nothere", "there is no run nothere"),
        (tmp_path, "not the folder of a run"),
        (__file__, "not a whole .safetensors"),
    ):
        with pytest.raises(CheckpointError, match=piece):
            vitrail.load(source)
    with pytest.raises(UsageError, match="there is no device 'xyz' here"):
        vitrail.load(saved, device="xyz")


def test_errors_are_told_apart():
    assert issubclass(BadImage, DataError)
    assert issubclass(UsageError, ValueError)
    assert [e.code for e in (UsageError, DataError, BadImage, CheckpointError)] == [2, 3, 3, 4]
