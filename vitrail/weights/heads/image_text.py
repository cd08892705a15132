"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023), 1 and 2, whole: the text tower and the tokenizer beside the
image tower, by the names of transformers, of OpenAI and of OpenCLIP.

A file without a tokenizer.json beside it cannot read texts: it is an image tower, as `weights/tables` has it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitrail import catalog
from vitrail.data.texts.tokenizer import Tokenizer, fit_tokenizer, read_content
from vitrail.errors import CheckpointError
from vitrail.models import _text
from vitrail.recipe import Choice
from vitrail.weights.identify import identify
from vitrail.weights.rules import Drop, Rule, convert
from vitrail.weights.sidecars import CountOf, Sidecar, Whole, look_up, read_object
from vitrail.weights.tables.clip import TEXT
from vitrail.weights.whole import Table, Tensors, WholeModel, count_blocks

AGAIN = "made again from the number of tokens"
HEAD_WIDTH = 64  # of every published tower but SigLIP's so400m, which has a config.json beside it
LEGACY_END = 2  # in old configs of CLIP: the end token is the one with the highest id
GELUS = {"quick_gelu": "quick", "gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}
SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right"}


def transformers() -> Table:
    p, b, ours = "text_model.", "text_model.encoder.layers.{i}.", "text.blocks.{i}."
    return (
        Drop(f"{p}embeddings.position_ids", AGAIN),
        Rule(f"{p}embeddings.token_embedding.weight", "text.tokens.weight"),
        Rule(f"{p}embeddings.position_embedding.weight", "text.position"),
        Rule(tuple(f"{b}self_attn.{x}_proj.{{p}}" for x in "qkv"), f"{ours}attn.qkv.{{p}}", "fuse"),
        Rule(f"{b}self_attn.out_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        *(Rule(f"{b}layer_norm{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)),
        *(Rule(f"{b}mlp.fc{k}.{{p}}", f"{ours}mlp.fc{k}.{{p}}") for k in (1, 2)),
        Rule(f"{p}final_layer_norm.{{p}}", "text.norm.{p}"),
        Rule(f"{p}head.{{p}}", "text.proj.{p}"),
        Rule("text_projection.weight", "text.proj.weight"),
        Rule("logit_scale", "log_scale"),
        Rule("logit_bias", "bias"),
    )


def original() -> Table:
    """OpenAI's names, and OpenCLIP's."""
    b, ours = "transformer.resblocks.{i}.", "text.blocks.{i}."
    return (
        Drop("attn_mask", AGAIN),
        Rule("token_embedding.weight", "text.tokens.weight"),
        Rule("positional_embedding", "text.position"),
        Rule(f"{b}attn.in_proj_{{p}}", f"{ours}attn.qkv.{{p}}"),
        Rule(f"{b}attn.out_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        *(Rule(f"{b}ln_{k}.{{p}}", f"{ours}norm{k}.{{p}}") for k in (1, 2)),
        Rule(f"{b}mlp.c_fc.{{p}}", f"{ours}mlp.fc1.{{p}}"),
        Rule(f"{b}mlp.c_proj.{{p}}", f"{ours}mlp.fc2.{{p}}"),
        Rule("ln_final.{p}", "text.norm.{p}"),
        Rule("text_projection", "text.proj.weight", "linear"),
        Rule("logit_scale", "log_scale"),
        Rule("logit_bias", "bias"),
    )


SOURCES: dict[str, tuple[str, Table]] = {  # the mark of the names, and the rules of all but the image tower
    "transformers": ("text_model.embeddings.token_embedding.weight", transformers()),
    "original": ("token_embedding.weight", original()),
}


def recognise(tensors: Tensors, sidecar: Sidecar) -> WholeModel | None:
    """A CLIP or SigLIP with its tokenizer. Errors: `CheckpointError` for a tokenizer of another model."""
    source = next((name for name, (mark, _) in SOURCES.items() if mark in tensors), "")
    path = Path(sidecar.where) / "tokenizer.json"
    if not source or "logit_scale" not in tensors or not sidecar.where or not path.is_file():
        return None
    found = identify(tensors, sidecar)
    family = found.model.name.partition("/")[0]
    image = convert(tensors, catalog.load_module("weights/tables", family).SOURCES[found.source])
    text = convert({name: tensors[name] for name, why in image.dropped.items() if why == TEXT}, SOURCES[source][1])
    own = dict(text.tensors)
    for name in ("log_scale", "bias"):
        if name in own:
            own[name] = own[name].reshape(1)
    keys, tokenizer = text_keys(own, sidecar), open_tokenizer(path, own, sidecar)
    facts = tokenizer.facts
    keys |= {"tokenizer_size": facts.size, "tokenizer_hash": facts.sha256}
    own["tokenizer.content"] = torch.frombuffer(bytearray(tokenizer.content), dtype=torch.uint8)
    every = {f"backbone.{name}": t for name, t in image.tensors.items()} | own
    reasons = (
        *found.reasons,
        f"task = contrastive: with its text tower and the tokenizer of {facts.vocabulary:,} tokens",
    )
    return WholeModel(
        source, found.model, Choice("contrastive", keys), found.input, (), every, (*image.unknown, *text.unknown),
        text.dropped, reasons,
    )  # fmt: skip


def text_keys(tensors: Mapping[str, Tensor], sidecar: Sidecar) -> dict[str, Any]:
    """The keys of the task, from the shapes of the text tower and the config.json. Errors: `CheckpointError`."""
    (vocabulary, width), context = tensors["text.tokens.weight"].shape, len(tensors["text.position"])
    depth, hidden = count_blocks(tensors, "text.blocks."), tensors["text.blocks.0.mlp.fc1.weight"].shape[0]
    heads = sidecar.get(Whole, "text_config.num_attention_heads", "text_cfg.heads", "model_cfg.text_cfg.heads")
    is_sigmoid = "bias" in tensors
    kind = "siglip" if is_sigmoid else {"erf": "open", "quick": "clip"}.get(gelu_of(sidecar), "")
    if not kind or (is_sigmoid and gelu_of(sidecar, "tanh") != "tanh"):
        raise CheckpointError("the text tower has an activation that vitrail's has not", "quick, exact or tanh GELU")
    shape = {"width": width, "depth": depth, "heads": heads or max(1, width // HEAD_WIDTH), "vocabulary": vocabulary,
             "context": context, "mlp_ratio": hidden / width}  # fmt: skip
    names = [name for name in _text.VARIANTS if name.startswith(kind)]
    name = min(names, key=lambda one: len(differing(one, shape)))
    keys = {"text": name, "loss": "sigmoid" if is_sigmoid else "softmax", "vocabulary": vocabulary, "context": context}
    keys |= {f"text_{key}": value for key, value in differing(name, shape).items() if key not in keys}
    if not is_sigmoid and (end := end_token(sidecar, vocabulary)) != _text.VARIANTS[name].end:
        keys["text_end"] = end
    return keys


def differing(name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a text tower that differ from those of a variant."""
    own = vars(_text.VARIANTS[name])
    return {key: value for key, value in shape.items() if abs(own[key] - value) > 1e-6}


def gelu_of(sidecar: Sidecar, usual: str = "quick") -> str:
    """The form of GELU of the text tower: transformers' default of CLIP is the quick one, OpenCLIP's the exact one."""
    stated = sidecar.get(str, "text_config.hidden_act")
    if stated is not None:
        return GELUS.get(stated, "")
    if (quick := sidecar.get(bool, "quick_gelu", "model_cfg.quick_gelu")) is not None:
        return "quick" if quick else "erf"
    return "erf" if "model_cfg" in sidecar.config else usual


def end_token(sidecar: Sidecar, vocabulary: int) -> int:
    """The id of CLIP's end token."""
    stated = sidecar.get(CountOf, "text_config.eos_token_id")
    return vocabulary - 1 if stated in (None, LEGACY_END) else int(stated)


def open_tokenizer(path: Path, tensors: Mapping[str, Tensor], sidecar: Sidecar) -> Tokenizer:
    """The tokenizer beside the weights, for the length of the text tower. Errors: `CheckpointError`."""
    about = read_object(path.with_name("tokenizer_config.json"))
    stated = about.get("pad_token")
    pad = look_up(about, "pad_token.content") if isinstance(stated, dict) else stated
    rows, context = len(tensors["text.tokens.weight"]), len(tensors["text.position"])
    is_lower = "siglip2" in sidecar.kind or about.get("tokenizer_class") == "Siglip2Tokenizer"
    side = SIDES.get(str(about.get("padding_side")), "right")
    tokenizer = fit_tokenizer(
        read_content(path), context, pad if isinstance(pad, str) else "", str(path), is_lower, side
    )
    if (count := tokenizer.facts.vocabulary) > rows:
        what = f"{path} is the tokenizer of another model: it has {count:,} tokens, and the text tower {rows:,}"
        raise CheckpointError(what, "bring the one of these weights, or remove it to take the image tower alone")
    return tokenizer
