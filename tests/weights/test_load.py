"""Files as the libraries of the field write them, through the public door: equal numbers, whole reports, plain
refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrail
from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError

TINY = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "size": (32, 32)}


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


def shaken(model):
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)  # nothing at zero or one
    return model.eval()


def timm_vit(**keys):
    from timm.models.vision_transformer import VisionTransformer

    return shaken(
        VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, **{"num_classes": 5, **keys})
    )


@torch.no_grad()
def same(ours, theirs, size=(32, 32), limit=1e-5):
    x = torch.randn(2, 3, *size)
    assert relative_error(ours.eval()(x), theirs(x)) < limit


def saved(path, state):
    if path.suffix == ".safetensors":
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_timm(tmp_path, name):
    theirs = timm_vit()
    ours = vitrail.create("vit/tiny", classes=5, **TINY)
    report = vitrail.load_weights(ours, saved(tmp_path / name, theirs.state_dict()))
    assert (report.source, report.fraction, report.missing, report.unexpected) == ("timm", 1.0, (), ())
    assert any("original" in note for note in report.notes)  # the names are those of DINO as well
    same(ours, theirs)


@pytest.mark.parametrize("resampling", ["bicubic", "antialias"])
def test_timm_with_registers_at_another_size(tmp_path, resampling):
    theirs = timm_vit(reg_tokens=3, no_embed_class=True, init_values=1e-3, dynamic_img_size=True)
    path = saved(
        tmp_path / "x.pth", {"state_dict": {f"module.{n}": t for n, t in theirs.state_dict().items()}, "epoch": 3}
    )
    ours = vitrail.create(
        "vit/tiny",
        classes=5,
        registers=3,
        layer_scale=1.0,
        position_tokens=False,
        position_resampling=resampling,
        **TINY,
    )
    report = vitrail.load_weights(ours, path)
    assert report.source == "timm:dinov2-registers"
    assert "epoch" in " ".join(report.notes)
    same(ours, theirs)
    x = torch.randn(1, 3, 24, 48)
    with torch.no_grad():
        assert (relative_error(ours.eval()(x), theirs(x)) < 1e-5) == (resampling == "antialias")


def test_timm_swiglu(tmp_path):
    from timm.layers import SwiGLUPacked

    theirs = timm_vit(mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, mlp_ratio=4.0)
    ours = vitrail.create("vit/tiny", classes=5, mlp="swiglu", mlp_ratio=2.0, **TINY)
    assert (
        vitrail.load_weights(ours, saved(tmp_path / "x.pth", theirs.state_dict()), source="timm").source
        == "timm:dinov2-swiglu"
    )
    same(ours, theirs)


def test_torchvision(tmp_path):
    from torchvision.models.vision_transformer import VisionTransformer

    theirs = shaken(VisionTransformer(32, 8, 2, 4, 32, 128, num_classes=5))
    ours = vitrail.create("vit/tiny", classes=5, **TINY)
    assert vitrail.load_weights(ours, saved(tmp_path / "x.pth", theirs.state_dict())).source == "torchvision"
    same(ours, theirs)


def hf(kind, **keys):
    import transformers

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 5,
    }
    config = getattr(transformers, f"{kind}Config")(**shape, layer_norm_eps=1e-6, **keys)
    return transformers, config


@pytest.mark.parametrize("where", ["disk", "live"])
@pytest.mark.parametrize("kind", ["ViT", "Dinov2WithRegisters", "Dinov2"])
def test_transformers(tmp_path, where, kind):
    keys = {
        "ViT": {"intermediate_size": 128},
        "Dinov2": {"use_swiglu_ffn": True},
        "Dinov2WithRegisters": {"num_register_tokens": 3},
    }[kind]
    transformers, config = hf(kind, **keys)
    theirs = shaken(
        getattr(transformers, f"{kind}Model")(config, **({"add_pooling_layer": False} if kind == "ViT" else {}))
    )
    if where == "disk":
        theirs.save_pretrained(tmp_path / "hf")
        path = tmp_path / "hf" / "model.safetensors"
    else:
        path = saved(tmp_path / "x.pth", theirs.state_dict())
    own = {"ViT": {}, "Dinov2": {"mlp": "swiglu", "mlp_ratio": 88 / 32, "layer_scale": 1.0,
                                 "position_resampling": "bicubic"},
           "Dinov2WithRegisters": {"registers": 3, "layer_scale": 1.0,
                                   "position_resampling": "antialias"}}[kind]  # fmt: skip
    ours = vitrail.backbone("vit/tiny", **TINY, **own).eval()
    report = vitrail.load_weights(ours, path)
    live = "-live" if where == "live" else ""
    named = {
        "ViT": live.replace("-", ":"),
        "Dinov2": f":dinov2{live}-swiglu",
        "Dinov2WithRegisters": f":dinov2-registers{live}",
    }[kind]
    assert report.source == f"transformers{named}"
    for size in ((32, 32), *([(24, 40)] if kind != "ViT" else [])):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            wanted = theirs(x).last_hidden_state
            summaries, maps = ours(x)
        assert relative_error(summaries[0], wanted[:, 0]) < 1e-5
        assert relative_error(maps[0].flatten(2).mT, wanted[:, 1 + ours.config.registers :]) < 1e-5


@pytest.mark.parametrize("where", ["disk", "live"])
def test_transformers_pooler_is_pre_logits(tmp_path, where):
    transformers, config = hf("ViT", intermediate_size=128)
    theirs = shaken(transformers.ViTModel(config))
    theirs.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors" if where == "disk" else saved(tmp_path / "x.pth", theirs.state_dict())
    ours = vitrail.backbone("vit/tiny", pre_logits=32, **TINY).eval()
    vitrail.load_weights(ours, path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(ours(x).summaries[0], theirs(x).pooler_output) < 1e-5


def test_our_own_files(tmp_path):
    first = vitrail.create("vit/tiny", classes=5, **TINY)
    folder = vitrail.save(first, tmp_path / "m")
    second = vitrail.create("vit/tiny", classes=5, **TINY)
    assert vitrail.load_weights(second, folder / "model.safetensors").source == "vitrail"
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    third = vitrail.backbone("vit/tiny", **TINY)
    saved(tmp_path / "b.pth", {f"_orig_mod.{n}": t for n, t in first.backbone.state_dict().items()})
    assert vitrail.load_weights(third, tmp_path / "b.pth").source == "vitrail:backbone"


def test_head_is_left_only_when_asked(tmp_path):
    path = saved(tmp_path / "x.pth", timm_vit(num_classes=7).state_dict())
    ours = vitrail.create("vit/tiny", classes=5, **TINY)
    before = ours.heads[0].weight.clone()
    with pytest.raises(CheckpointError, match=r"heads.0.weight is \[7, 32\][\s\S]*--new-head"):
        vitrail.load_weights(ours, path)
    report = vitrail.load_weights(ours, path, new_head=True)
    assert set(report.left_out) == {"heads.0.weight", "heads.0.bias"}
    assert torch.equal(ours.heads[0].weight, before)
    assert 0.9 < report.fraction < 1
    assert any("left out" in line and "heads.0.bias" in line for line in report.lines())


def broken(state, how):
    if how == "missing":
        return {n: t for n, t in state.items() if "blocks.1" not in n}
    if how == "unexpected":
        return {**state, **{f"extra.{i:02d}": torch.zeros(1) for i in range(12)}}
    if how == "renamed":
        return {n.replace("norm.", "final_norm.") if n.startswith("norm.") else n: t for n, t in state.items()}
    if how == "shape":
        return {**state, "norm.weight": torch.zeros(33)}
    if how == "dtype":
        return {**state, "norm.weight": torch.zeros(32, dtype=torch.int64)}
    if how == "transposed":
        return {**state, "blocks.0.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"].T.contiguous()}
    if how == "nan":
        return {**state, "norm.bias": torch.full((32,), float("nan"))}
    return state


@pytest.mark.parametrize(("how", "said"), [
    ("missing", r"missing 12: [\s\S]*, \.\.\."), ("unexpected", r"unexpected 12: extra.00, [\s\S]*extra.09, \.\.\."),
    ("renamed", r"missing 2: [\s\S]*unexpected 2: final_norm"), ("shape", r"norm.weight is \[33\]"), ("dtype", "int64"),
    ("transposed", "transposed"), ("nan", "contain NaN or infinity: 1: backbone.norm.bias"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_touched(tmp_path, how, said):
    path = saved(tmp_path / "x.pth", broken(timm_vit().state_dict(), how))
    ours = vitrail.create("vit/tiny", classes=5, **TINY)
    before = {n: t.clone() for n, t in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=said) as error:
        vitrail.load_weights(ours, path)
    assert error.value.code == 4
    assert all(torch.equal(t, before[n]) for n, t in ours.state_dict().items())


def test_not_strict_says_what_was_left(tmp_path):
    path = saved(tmp_path / "x.pth", broken(timm_vit().state_dict(), "renamed"))
    report = vitrail.load_weights(vitrail.create("vit/tiny", classes=5, **TINY), path, strict=False)
    assert len(report.missing) == len(report.unexpected) == 2
    assert 0.9 < report.fraction < 1
    assert "missing" in "\n".join(report.lines())


def test_wrong_words(tmp_path):
    path = saved(tmp_path / "x.pth", timm_vit().state_dict())
    ours = vitrail.create("vit/tiny", classes=5, **TINY)
    with pytest.raises(UsageError, match="did you mean 'timm'"):
        vitrail.load_weights(ours, path, source="tim")
    with pytest.raises(UsageError, match="not a model"):
        vitrail.load_weights("vit", path)
    with pytest.raises(CheckpointError, match="meta"), torch.device("meta"):
        vitrail.load_weights(vitrail.create("vit/tiny", classes=5, **TINY), path)
    with pytest.raises(CheckpointError, match=r"--model\.layer-scale"):
        vitrail.load_weights(vitrail.create("vit/tiny", classes=5, layer_scale=1.0, **TINY), path)


def words(file, out, *more):
    keys = "--model.width 32 --model.depth 2 --model.heads 4 --model.patch 8 --model.size 32 32"
    return ["import", str(file), "--model", "vit/tiny", *keys.split(), "--out", str(out), *more]


def test_command(tmp_path, capsys):
    theirs = timm_vit()
    path = saved(tmp_path / "x.pth", theirs.state_dict())
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\ndog\neel\n")
    assert main(words(path, tmp_path / "m", "--classes", str(tmp_path / "names.txt"), "--input.crop-ratio", "1.0")) == 0
    told = capsys.readouterr().out
    for said in (
        "100.00% of the model",
        "position_resampling = antialias",
        "crop_ratio 1.0",
        "no licence",
        "missing     none",
    ):
        assert said in told
    predictor = vitrail.load(tmp_path / "m")
    same(predictor.model, theirs)
    assert predictor.predict(np.zeros((50, 40, 3), np.uint8)).labels[0] in ("ant", "bee", "cow", "dog", "eel")
    assert predictor.preprocess.crop_ratio == 1.0
    again = load_file(tmp_path / "m" / "model.safetensors")
    assert len(again) == len(predictor.model.state_dict())


@pytest.mark.parametrize(("more", "code", "said"), [
    (["--sha256", "0" * 64], 4, "SHA-256"), (["--classes", "7"], 4, "--new-head"),
    (["--optim.lr", "1"], 2, "does not change imported weights"), (["--lr", "1"], 2, "has no --lr"),
    (["--model.widht", "3"], 2, "width"), (["--img-size", "3", "3"], 2, "has no --img-size"),
    (["--input.size", "3", "3"], 2, "--model.size"),
    (["--classes", "none.txt"], 2, "neither"),
    (["--format", "google"], 4, "read as google"), (["--input.mean", "0.5", "0.5"], 2, "2 values for 3 channels"),
])  # fmt: skip
def test_command_refuses(tmp_path, capsys, more, code, said):
    path = saved(tmp_path / "x.pth", timm_vit().state_dict())
    assert main(words(path, tmp_path / "m", *more)) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") <= 5
    assert not (tmp_path / "m").exists()


def test_command_gives_a_headless_file_a_new_head(tmp_path, capsys):
    path = saved(tmp_path / "x.pth", {n: t for n, t in timm_vit().state_dict().items() if not n.startswith("head")})
    assert main(words(path, tmp_path / "m")) == 4
    assert "--new-head" in capsys.readouterr().err
    assert main(words(path, tmp_path / "m", "--new-head", "--classes", "4")) == 0
    assert "the head is new" in capsys.readouterr().out
    assert len(vitrail.load(tmp_path / "m").classes) == 4
