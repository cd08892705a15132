"""Image-text models as OpenCLIP writes them: both towers, logits, loss and every gradient are as its own, its texts
are tokenised as it does, and what vitrail has not is said."""

import json

import pytest
import torch
from open_clip_models import CONFIGS, build, loss_of, save
from safetensors.torch import load_file, save_file
from test_image_text import batch, close, gradients

from vitrail.assembly import load
from vitrail.cli.main import main
from vitrail.errors import CheckpointError
from vitrail.weights.folders import read_published
from vitrail.weights.whole import find_whole_model

pytest.importorskip("open_clip")


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    config, folder = CONFIGS[request.param], tmp_path_factory.mktemp("pair") / "saved"
    theirs = build(config)
    save(theirs, config, folder)
    out = folder.parent / "ours"
    assert main(["import", str(folder), "--out", str(out)]) in (0, None)
    bundle, _ = load.load_bundle(out)
    return theirs, bundle, folder


def one(name):
    return pytest.mark.parametrize("pair", [name], indirect=True)


def read(folder):
    raw, sidecar = read_published(folder)
    return find_whole_model(raw.tensors, sidecar), sidecar


def test_towers_logits_loss_and_all_gradients(pair):
    theirs, bundle, folder = pair
    for model in (theirs, bundle.model):
        model.zero_grad(set_to_none=True)
    expected, out = loss_of(theirs, batch())
    expected.backward()
    images, texts = bundle.model(batch().inputs), bundle.model.embed_tokens(batch().targets)
    (loss,) = bundle.task.loss(bundle.model, batch()).values()
    loss.backward()
    close(images, out["image_features"])
    close(texts, out["text_features"])
    close(bundle.model.compare(images, texts), theirs.get_logits(batch().inputs, batch().targets)[0])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, other in gradients(theirs, bundle.model, folder).values():
        close(ours, other)


def test_texts_are_tokenised_as_open_clip_does(pair):
    from open_clip.tokenizer import HFTokenizer

    _, bundle, folder = pair
    kwargs = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    theirs = HFTokenizer(str(folder), context_length=10, **kwargs.get("tokenizer_kwargs", {}))
    texts = ["a red car", "A RED, car!", "a_red\n car ...", "", "a blue cat " * 9]
    assert bundle.model.tokenizer.open().encode(texts).tolist() == theirs(texts).tolist()


def test_preprocessing_is_that_of_the_config(pair):
    _, bundle, folder = pair
    about = json.loads((folder / "open_clip_config.json").read_text())
    given, stated = bundle.recipe.input, about["preprocess_cfg"]
    assert (list(given.mean), list(given.std), given.size) == (stated["mean"], stated["std"], (32, 32))
    assert given.resize_mode == ("stretch" if "resize_mode" in stated else "crop")
    assert (given.interpolation, given.crop_ratio) == ("bicubic", 1.0)


def change(folder, to, **keys):
    """A copy of a folder, whose config has other keys of the text tower, or of what is named with its part."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    about = json.loads((folder / "open_clip_config.json").read_text())
    for name, value in keys.items():
        part, _, key = name.rpartition("__")
        (about[part] if part == "preprocess_cfg" else about["model_cfg"][part or "text_cfg"])[key] = value
    (to / "open_clip_config.json").write_text(json.dumps(about))
    return to


def test_a_tower_of_timm_that_is_no_vit(tmp_path):
    torch.manual_seed(0)
    swin = {"image_size": 32, "timm_model_name": "swin_base_patch4_window7_224", "timm_pool": "", "timm_proj": "linear"}
    config = {**CONFIGS["CLIP, text tower apart"], "vision_cfg": swin}
    theirs = build(
        config, {"img_size": 32, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 2}
    )
    save(theirs, config, tmp_path / "saved")
    words = ["--model.window", "2"]  # which no tensor shows
    assert main(["import", str(tmp_path / "saved"), "--out", str(tmp_path / "ours"), *words]) in (0, None)
    model = load.load_bundle(tmp_path / "ours")[0].model
    with torch.no_grad():
        close(model(batch().inputs), theirs.encode_image(batch().inputs, normalize=True))
        close(model.embed_tokens(batch().targets), theirs.encode_text(batch().targets, normalize=True))


@one("CLIP, sigmoid")
def test_a_sigmoid_alone_makes_no_siglip(pair, tmp_path):
    folder = pair[2]
    folder = change(folder, tmp_path / "other")
    (folder / "open_clip_config.json").unlink()
    out = ["--out", str(tmp_path / "ours"), "--model.gelu", "erf", "--model.heads", "4"]
    assert main(["import", str(folder), *out]) in (0, None)
    config = load.load_bundle(tmp_path / "ours")[0].model.text.config
    assert (config.causal, config.summary, config.gelu) == (True, "end", "erf")


@one("CLIP")
def test_other_words_for_preprocessing(pair, tmp_path):
    words = {"preprocess_cfg__resize_mode": "longest", "preprocess_cfg__interpolation": "bilinear"}
    found, _ = read(change(pair[2], tmp_path / "other", **words))
    assert (found.input.resize_mode, found.input.interpolation) == ("fit", "bilinear")
    with pytest.raises(CheckpointError, match=r"preprocess_cfg.resize_mode in .*open_clip_config.json is 'odd'"):
        read(change(pair[2], tmp_path / "odd", preprocess_cfg__resize_mode="odd"))


@one("CLIP")
@pytest.mark.parametrize(("key", "value"), [("width", 64), ("layers", 3), ("vocab_size", 99), ("context_length", 9)])
def test_the_config_of_another_model_is_refused(pair, tmp_path, key, value):
    with pytest.raises(CheckpointError, match=rf"{key} in .*open_clip_config.json is {value}, and the tensors have"):
        read(change(pair[2], tmp_path / "other", **{key: value}))


@one("CLIP")
def test_what_an_image_tower_of_ours_has_not_is_refused(pair, tmp_path):
    for number, (key, value) in enumerate({"pool_type": "avg", "qk_norm": True, "timm_model_name": "vit"}.items()):
        with pytest.raises(CheckpointError, match=rf"vision_cfg.{key} in .* is '?{value}'?, (which|and)"):
            read(change(pair[2], tmp_path / str(number), **{f"vision_cfg__{key}": value}))


@one("CLIP")
def test_a_config_of_other_types_is_refused_by_its_field(pair, tmp_path):
    folder = change(pair[2], tmp_path / "other")
    path = folder / "open_clip_config.json"
    about = json.loads(path.read_text())
    for value in ([1], "small", 3):
        path.write_text(json.dumps({**about, "model_cfg": {**about["model_cfg"], "text_cfg": value}}))
        with pytest.raises(CheckpointError, match=r"model_cfg.text_cfg in .*open_clip_config.json takes an object"):
            read(folder)


def imported(folder, out, *words):
    """What an import of the image tower alone says, and its model."""
    assert main(["import", str(folder), "--new-head", "--classes", "3", "--out", str(out), *words]) in (0, None)
    return load.load_bundle(out)[0]


@one("CLIP")
@pytest.mark.parametrize("key", ["embed_cls", "use_pad_mask", "unheard_of"])
def test_a_text_tower_that_ours_is_not_is_left_out(pair, tmp_path, capsys, key):
    folder = change(pair[2], tmp_path / "other", **{key: True})
    assert read(folder)[0] is None
    assert imported(folder, tmp_path / "ours").task.is_classifier
    said = capsys.readouterr().out
    assert f"text_cfg.{key} in" in said
    assert "which vitrail's text tower has not" in said


@one("CLIP")
def test_a_text_tower_of_transformers_is_left_out(pair, tmp_path, capsys):
    theirs, _, folder = pair
    folder = change(folder, tmp_path / "other", hf_model_name="roberta-base")
    tensors = {n: t for n, t in load_file(folder / "open_clip_model.safetensors").items() if n.startswith("visual.")}
    tensors |= {"logit_scale": torch.ones(()), "text.transformer.embeddings.word_embeddings.weight": torch.ones(5, 4)}
    save_file(tensors, folder / "open_clip_model.safetensors")
    model = imported(folder, tmp_path / "ours").model
    assert "its text tower, roberta-base, is of a kind that vitrail has not" in capsys.readouterr().out
    with torch.no_grad():
        close(model.backbone(batch().inputs).summaries[0], theirs.encode_image(batch().inputs))


@one("SigLIP")
def test_without_a_tokenizer_the_tower_of_timm_is_read(pair, tmp_path, capsys):
    theirs, _, folder = pair
    folder = change(folder, tmp_path / "other")
    (folder / "tokenizer.json").unlink()
    assert main(["import", str(folder), "--out", str(tmp_path / "none")]) == 4
    assert "there is no tokenizer.json beside the weights" in " ".join(capsys.readouterr().err.split())
    model = imported(folder, tmp_path / "ours").model
    with torch.no_grad():
        close(model.backbone(batch().inputs).summaries[0], theirs.encode_image(batch().inputs))


@one("CLIP")
def test_without_a_config_the_form_is_asked_for_and_typed(pair, tmp_path):
    theirs, _, folder = pair
    folder = change(folder, tmp_path / "other")
    (folder / "open_clip_config.json").unlink()
    out = ["--out", str(tmp_path / "ours")]
    assert main(["import", str(folder), *out]) == 4
    assert main(["import", str(folder), *out, "--model.gelu", "erf", "--model.heads", "4"]) in (0, None)
    model = load.load_bundle(tmp_path / "ours")[0].model
    assert model.text.config.gelu == "erf"
    with torch.no_grad():
        close(model(batch().inputs), theirs.encode_image(batch().inputs, normalize=True))


@one("SigLIP, timm projected")
def test_a_projection_with_a_bias_is_left_out(pair, tmp_path, capsys):
    folder = change(pair[2], tmp_path / "other")
    tensors = load_file(folder / "open_clip_model.safetensors")
    save_file({**tensors, "visual.head.proj.bias": torch.zeros(40)}, folder / "open_clip_model.safetensors")
    imported(folder, tmp_path / "ours")
    assert "the projection of its image tower has a bias" in capsys.readouterr().out


@one("CLIP")
def test_the_tokenizer_of_another_model_is_refused(pair, tmp_path):
    folder = change(pair[2], tmp_path / "other")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"id":"<|endoftext|>","type_id"', '"id":"<start>","type_id"'))
    with pytest.raises(CheckpointError, match="texts end with token 1, and the text tower is summarised at token 319"):
        read(folder)


@one("SigLIP")
def test_spare_tokens_of_t5_beyond_the_text_tower(pair, tmp_path):
    folder = change(pair[2], tmp_path / "other")
    path = folder / "tokenizer.json"
    library = __import__("tokenizers").Tokenizer.from_file(str(path))
    library.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    path.write_text(library.to_str())
    assert read(folder)[0] is not None
    library.add_special_tokens(["<other>"])
    path.write_text(library.to_str())
    with pytest.raises(CheckpointError, match="it has 323 tokens, and the text tower 320"):
        read(folder)


@one("SigLIP")
def test_a_file_of_torch_is_read_as_tensors(pair, tmp_path):
    theirs, bundle, folder = pair
    folder = change(folder, tmp_path / "other")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    found, _ = read(folder)
    assert all(torch.equal(found.tensors[name], t) for name, t in bundle.model.state_dict().items())


@one("CLIP, quick GELU")
def test_beside_the_same_model_of_others_each_has_its_own_config(pair, tmp_path):
    folder = change(pair[2], tmp_path / "other")
    own = (folder / "open_clip_model.safetensors").read_bytes()
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {"num_attention_heads": 2}}))
    assert read(folder)[0].model.keys["heads"] == 4
    (folder / "model.safetensors").write_bytes(own)
    assert read(folder)[0].model.keys["heads"] == 2
    assert read(folder / "open_clip_model.safetensors")[0].model.keys["heads"] == 4


@pytest.mark.parametrize("pair", ["CLIP, quick GELU", "SigLIP 2"], indirect=True)
def test_the_hub_is_asked_for_what_open_clip_has_beside(pair, hub, own_folder):
    _, bundle, folder = pair
    hub.repos["org/pair"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.licences["org/pair"] = "mit"
    assert main(["import", "hf:org/pair", "--out", "ours"]) in (0, None)
    found, _ = load.load_bundle(own_folder / "ours")
    state = found.model.state_dict()
    assert all(torch.equal(state[name], t) for name, t in bundle.model.state_dict().items())
    assert found.recipe.input == bundle.recipe.input
    asked = len(hub.log)
    assert main(["fetch", "hf:org/pair", "--to", "carried"]) in (0, None)
    assert len(hub.log) == asked
    assert sorted(p.name for p in (own_folder / "carried").rglob("*.json")) == [
        "open_clip_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
