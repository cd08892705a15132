"""CLIP and SigLIP whole, as transformers writes them, with a tokenizer beside: towers, loss and gradients are as
theirs."""

import json

import pytest
import torch
from oracles import stir
from safetensors.torch import load_file, save_file

from vitrail.assembly import load
from vitrail.cli.main import main
from vitrail.data.texts import tokenizer as tokens
from vitrail.data.texts.tokenizer import train_tokenizer
from vitrail.errors import CheckpointError
from vitrail.types import Batch
from vitrail.weights.folders import read_published
from vitrail.weights.whole import find_whole_model

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SHAPE, "vocab_size": 320, "max_position_embeddings": 10}
IMAGE = {**SHAPE, "image_size": 32, "patch_size": 8}


def siglip():
    from transformers import SiglipConfig, SiglipModel

    return SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=IMAGE))


def clip(end):
    from transformers import CLIPConfig, CLIPModel

    text = {**TEXT, "eos_token_id": end, "bos_token_id": 1, "pad_token_id": 0}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24))


MODELS = {"siglip": siglip, "clip": lambda: clip(319), "clip of old": lambda: clip(2)}


def save_tokenizer(path, vocabulary=320):
    """Without a length, and with an end token that has the highest id, as published ones are."""
    library = tokens.parse(train_tokenizer(["a red car", "a blue cat"] * 3, vocabulary - 1, 10).content)
    spare = range(library.get_vocab_size(), vocabulary - 1)
    library.add_special_tokens([*(f"<spare-{i}>" for i in spare), "<|endoftext|>"])
    parts = tokens.load_library().processors
    ends = [("<start>", 1), ("<|endoftext|>", vocabulary - 1)]
    library.post_processor = parts.TemplateProcessing(single="<start> $A <|endoftext|>", special_tokens=ends)
    library.no_padding()
    library.no_truncation()
    path.write_text(library.to_str())


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs, folder = MODELS[request.param](), tmp_path_factory.mktemp("pair") / "saved"
    stir(theirs)
    theirs.save_pretrained(folder)
    save_tokenizer(folder / "tokenizer.json")
    out = folder.parent / "ours"
    main(["import", str(folder), "--out", str(out)])
    bundle, _ = load.load_bundle(out)
    return theirs.eval(), bundle, folder


def as_openai(theirs):
    """The tensors of transformers' CLIP by OpenAI's names."""
    own, made = theirs.state_dict(), {}
    for there, here in (("vision_model.", "visual."), ("text_model.", "")):
        for i in range(2):
            layer, block = f"{there}encoder.layers.{i}.", f"{here}transformer.resblocks.{i}."
            for p in ("weight", "bias"):
                qkv = [own[f"{layer}self_attn.{x}_proj.{p}"] for x in "qkv"]
                made[f"{block}attn.in_proj_{p}"] = torch.cat(qkv)
                made[f"{block}attn.out_proj.{p}"] = own[f"{layer}self_attn.out_proj.{p}"]
                for k, name in ((1, "c_fc"), (2, "c_proj")):
                    made[f"{block}ln_{k}.{p}"] = own[f"{layer}layer_norm{k}.{p}"]
                    made[f"{block}mlp.{name}.{p}"] = own[f"{layer}mlp.fc{k}.{p}"]
    for p in ("weight", "bias"):
        made[f"visual.ln_pre.{p}"] = own[f"vision_model.pre_layrnorm.{p}"]
        made[f"visual.ln_post.{p}"] = own[f"vision_model.post_layernorm.{p}"]
        made[f"ln_final.{p}"] = own[f"text_model.final_layer_norm.{p}"]
    made["visual.class_embedding"] = own["vision_model.embeddings.class_embedding"]
    made["visual.conv1.weight"] = own["vision_model.embeddings.patch_embedding.weight"]
    made["visual.positional_embedding"] = own["vision_model.embeddings.position_embedding.weight"]
    made["positional_embedding"] = own["text_model.embeddings.position_embedding.weight"]
    made["token_embedding.weight"] = own["text_model.embeddings.token_embedding.weight"]
    made["visual.proj"], made["text_projection"] = own["visual_projection.weight"].T, own["text_projection.weight"].T
    made["logit_scale"] = own["logit_scale"]
    for name, number in (("input_resolution", 32), ("context_length", 10), ("vocab_size", 320)):
        made[name] = torch.tensor(number)
    return {name: t.contiguous() for name, t in made.items()}


def test_the_names_of_openai(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {**TEXT, "eos_token_id": 319, "bos_token_id": 1, "pad_token_id": 0}
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24)).eval()
    stir(theirs)
    heads = {"num_attention_heads": 4}  # which no tensor shows, of a tower that was not published
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": {**heads, "eos_token_id": 319}, "vision_config": heads})
    )
    save_file(as_openai(theirs), tmp_path / "model.safetensors")
    save_tokenizer(tmp_path / "tokenizer.json")
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "ours")]) in (0, None)
    bundle, _ = load.load_bundle(tmp_path / "ours")
    images, words = batch()
    with torch.no_grad():
        expected = theirs(input_ids=words, pixel_values=images)
        found = bundle.model(images), bundle.model.embed_tokens(words)
        close(bundle.model.compare(*found), expected.logits_per_image)


def test_siglip_2_reads_small_letters_and_pads_as_its_files_say(tmp_path):
    torch.manual_seed(0)
    siglip().save_pretrained(tmp_path)
    save_tokenizer(tmp_path / "tokenizer.json")
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('{"type":"Lowercase"}', '{"type":"NFC"}'))
    about = {"tokenizer_class": "Siglip2Tokenizer", "pad_token": {"content": "<end>"}, "padding_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    found = find_whole_model(*read_part(tmp_path))
    tokenizer = tokens.Tokenizer(found.tensors["tokenizer.content"].numpy().tobytes())
    assert tokenizer.encode(["A RED car"]).tolist() == tokenizer.encode(["a red car"]).tolist()
    row = tokenizer.encode(["a red car"])[0].tolist()
    assert row[0] == tokenizer.pad == 2
    assert row[-1] == 319


def batch():
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(3, 318, (5, 10), generator=draw)
    words[:, 0], words[:, 7] = 1, 319
    return Batch(torch.randn(5, 3, 32, 32, generator=draw), words)


def close(ours, theirs, limit=1e-5):
    assert (ours - theirs).norm() <= limit * theirs.norm()


def test_towers_and_logits(pair):
    theirs, bundle, _ = pair
    images, words = batch()
    with torch.no_grad():
        expected = theirs(input_ids=words, pixel_values=images)
        found = bundle.model(images), bundle.model.embed_tokens(words)
        close(found[0], expected.image_embeds)
        close(found[1], expected.text_embeds)
        close(bundle.model.compare(*found), expected.logits_per_image)


def test_loss_and_all_gradients(pair):
    theirs, bundle, folder = pair
    images, words = batch()
    for model in (theirs, bundle.model):
        model.zero_grad(set_to_none=True)
    expected = theirs(input_ids=words, pixel_values=images, return_loss=True).loss
    expected.backward()
    (found,) = bundle.task.loss(bundle.model, batch()).values()
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, other in gradients(theirs, bundle.model, folder).values():
        close(ours, other)


def gradients(theirs, ours, folder):
    """The gradient of every parameter of ours, and of what it is in a published model: rules of names are linear."""
    _, sidecar = read_published(folder)
    mapped = find_whole_model({name: p.grad for name, p in theirs.named_parameters()}, sidecar).tensors
    own = {name: p.grad for name, p in ours.named_parameters()}
    assert own.keys() == mapped.keys() - {"tokenizer.content"}
    return {name: (grad, mapped[name]) for name, grad in own.items()}


def test_texts_are_those_of_the_tokenizer_beside_it(pair):
    _, bundle, folder = pair
    library = tokens.load_library().Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = library.encode("A red car").ids
    row = bundle.model.tokenizer.open().encode(["A red car"])[0].tolist()
    assert row == ids + [0] * (10 - len(ids))
    assert bundle.model.embed_texts(["A red car"]).shape == (1, bundle.task.width)


def test_without_a_tokenizer_it_is_an_image_tower(pair, tmp_path):
    _, _, folder = pair
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert find_whole_model(*read_part(tmp_path)) is None


def read_part(folder):
    raw, sidecar = read_published(folder)
    return raw.tensors, sidecar


def test_the_tokenizer_of_another_model_is_refused(pair, tmp_path):
    _, _, folder = pair
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    captions = [f"word{i} other{i} thing{i}" for i in range(200)] * 3
    (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(captions, 900, 10).content)
    with pytest.raises(CheckpointError, match="tokenizer of another model: it has"):
        find_whole_model(*read_part(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(captions, 300, 10).content)
    if "clip" in json.loads((folder / "config.json").read_text())["model_type"].split("_"):
        with pytest.raises(CheckpointError, match="its texts end with token 2, and the text tower is"):
            find_whole_model(*read_part(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(CheckpointError, match="damaged, or no tokenizer"):
        find_whole_model(*read_part(tmp_path))


def test_an_edge_that_a_tower_does_not_see_is_not_padded(tmp_path):
    """As SigLIP so400m for 384 pixels, of whose 384 it sees 378."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    towers = {"text_config": {**TEXT, "projection_size": 32}, "vision_config": {**IMAGE, "image_size": 30}}
    SiglipModel(SiglipConfig(**towers)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path / "tokenizer.json")
    about = {"size": {"height": 30, "width": 30}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = find_whole_model(*read_part(tmp_path))
    assert found.input.size == (24, 24)
    assert tuple(found.model.keys["size"]) == (24, 24)


@pytest.mark.parametrize(("kind", "end"), [("clip", 319), ("metaclip_2", 2)])
def test_the_end_token_of_old_configs_is_the_highest_one(tmp_path, kind, end):
    """And only of CLIP's: another model may end texts with token 2."""
    clip(2).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"model_type": "clip"', f'"model_type": "{kind}"'))
    if end == 2:
        (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(["a red car"], 300, 10).content)
    else:
        save_tokenizer(tmp_path / "tokenizer.json")
    assert find_whole_model(*read_part(tmp_path)).task.keys["text_end"] == end


@pytest.mark.parametrize("pair", ["clip"], indirect=True)
def test_the_hub_is_asked_for_the_tokenizer_of_models_that_read_texts(pair, hub, own_folder):
    _, bundle, folder = pair
    hub.repos["org/pair"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.licences["org/pair"] = "mit"
    assert main(["import", "hf:org/pair", "--out", "ours"]) in (0, None)
    found, _ = load.load_bundle(own_folder / "ours")
    assert torch.equal(found.model.tokenizer.content, bundle.model.tokenizer.content)
    asked = len(hub.log)
    assert main(["import", "hf:org/pair", "--out", "again"]) in (0, None)
    assert len(hub.log) == asked
