"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023), 1 and 2, whole: the text tower and the tokenizer beside the
image tower, by the names of transformers, of OpenAI and of OpenCLIP, whose image tower may be timm's.

A file whose texts cannot be read, such as one without a tokenizer.json beside it, is an image tower, as
`weights/tables` has it; `explain_left_out` says why.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from vitrail import catalog
from vitrail.data.texts.tokenizer import Clean, Tokenizer, TokenizerFacts, fit_tokenizer, read_content
from vitrail.errors import CheckpointError
from vitrail.models import _text
from vitrail.recipe import Choice
from vitrail.weights import open_clip
from vitrail.weights.identify import Identified, identify
from vitrail.weights.open_clip import TextForm
from vitrail.weights.rules import Converted, Drop, Rule, convert
from vitrail.weights.sidecars import Sidecar, Small, Whole, look_up, read_object
from vitrail.weights.whole import Table, Tensors, WholeModel, count_blocks, split_prefix

AGAIN = "made again from the number of tokens"
HEAD_WIDTH = 64  # of every published tower but SigLIP's so400m, which has a config.json beside it
LEGACY_END = "clip", 2  # in old configs of CLIP: the end token is the one with the highest id
GELUS = {"quick_gelu": "quick", "gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}
TOKENIZER = "tokenizer.json"
SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right"}
CLIP = TextForm(gelu="quick")
SIGLIP = TextForm(causal=False, summary="last", gelu="tanh", eps=1e-6, clean="canonicalize")
TANH_VOCABULARY = 256000  # of SigLIP 2, whose text tower has the tanh form of GELU in OpenCLIP too
BETWEEN = ("logit_scale", "logit_bias", "text_projection.weight")
NUMBERS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # of OpenAI's files
TEXTS = ("text_model.", "text.", "token_embedding.")  # how names of text towers begin
SPARE = re.compile("\u2581?<extra_id_\\d+>")  # tokens of T5's vocabularies that no text has
OPEN_SHAPE = {"width": "width", "depth": "layers", "vocabulary": "vocab_size", "context": "context_length"}
AnyCount = Annotated[int, Ge(0)]


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
        Rule("text_projection.{p}", "text.proj.{p}"),
        Rule("logit_scale", "log_scale"),
        Rule("logit_bias", "bias"),
    )


SOURCES: dict[str, tuple[str, Table]] = {  # the mark of the names, and the rules of all but the image tower
    "transformers": ("text_model.embeddings.token_embedding.weight", transformers()),
    "original": ("token_embedding.weight", original()),
}


class Towers(NamedTuple):
    """The tensors of a file. source: of `SOURCES`; image: what `identify` is to read; text: all but the image tower, in
    our names; projection: of an image tower of timm, behind it; is_timm: whether the image tower is timm's."""

    source: str
    image: dict[str, Tensor]
    text: Converted
    projection: dict[str, Tensor]
    is_timm: bool = False


def split_towers(tensors: Tensors) -> Towers | None:
    """The towers of a file; None where it has not a text tower of CLIP's or SigLIP's kind."""
    if "logit_scale" not in tensors:
        return None
    mark, rules = SOURCES["transformers"]
    if mark in tensors:
        text = {n: t for n, t in tensors.items() if n.startswith("text_model.") or n in BETWEEN}
        return Towers("transformers", dict(tensors), convert(text, rules), {})
    trunk, rest = split_prefix(tensors, "visual.trunk.")
    projection, rest = split_prefix(rest, "visual.head.")
    text = {n.removeprefix("text."): t for n, t in rest.items() if not n.startswith("visual.") and n not in NUMBERS}
    mark, rules = SOURCES["original"]
    if mark not in text:
        return None
    return Towers("original", trunk or dict(tensors), convert(text, rules), projection, bool(trunk))


def explain_left_out(tensors: Tensors, sidecar: Sidecar) -> str:
    """Why of a file with a text tower the image tower alone is read; "" for one without, and one that is read whole.
    Errors: `CheckpointError`."""
    if "logit_scale" not in tensors or not any(name.startswith(TEXTS) for name in tensors):
        return ""
    towers = split_towers(tensors)
    if towers is None:
        name = open_clip.foreign_text_tower(sidecar)
        return f"its text tower{name and f', {name},'} is of a kind that vitrail has not"
    if odd := open_clip.odd_setting(sidecar, open_clip.TEXT, open_clip.OF_TEXTS):
        return f"{odd}, which vitrail's text tower has not"
    if not matching_variants(form_of(towers, sidecar), towers):
        return "its text tower has another form of attention, summary, norm or GELU than vitrail's"
    if towers.projection.keys() - {"proj.weight"} or (towers.is_timm and "head.bias" in towers.image):
        return "the projection of its image tower has a bias or a hidden layer, which vitrail's has not"
    if not sidecar.where or not (Path(sidecar.where) / TOKENIZER).is_file():
        return f"there is no {TOKENIZER} beside the weights, without which no text can be read"
    return ""


def recognise(tensors: Tensors, sidecar: Sidecar, given: Choice) -> WholeModel | None:
    """A CLIP or SigLIP with its tokenizer. Errors: `CheckpointError` for a tokenizer or a config of another model."""
    towers = split_towers(tensors)
    if towers is None or explain_left_out(tensors, sidecar):
        return None
    found = identify(towers.image, sidecar, given)
    family, variant = found.model.name.split("/")
    image = convert(towers.image, catalog.load_module("weights/tables", family).SOURCES[found.source])
    gelu = {**vars(catalog.load_module("models", family).VARIANTS[variant]), **found.model.keys}.get("gelu", "")
    own = dict(towers.text.tensors)
    for name in ("log_scale", "bias"):
        if name in own:
            own[name] = own[name].reshape(1)
    form = form_of(towers, sidecar, gelu)
    keys, tokenizer = text_keys(towers, form, sidecar), open_tokenizer(sidecar, own, form)
    facts = tokenizer.facts
    keys |= {"tokenizer_size": facts.size, "tokenizer_hash": facts.sha256}
    own["tokenizer.content"] = torch.frombuffer(bytearray(tokenizer.content), dtype=torch.uint8)
    inside = {name: t for name, t in image.tensors.items() if not name.startswith("heads.")}
    head = towers.projection.get("proj.weight", image.tensors.get("heads.0.weight"))
    if head is not None:
        keys["outputs"], own["proj.weight"] = len(head), head
    every = {f"backbone.{name}": t for name, t in inside.items()} | own
    return WholeModel(
        towers.source, found.model, Choice("contrastive", keys), found.input, (), every,
        (*image.unknown, *towers.text.unknown), towers.text.dropped, reasons_of(found, facts, own),
    )  # fmt: skip


def reasons_of(found: Identified, facts: TokenizerFacts, own: Tensors) -> tuple[str, ...]:
    rows = len(own["text.tokens.weight"])
    few = f", {rows - facts.vocabulary:,} fewer than the text tower has" if facts.vocabulary < rows else ""
    what = f"task = contrastive: with its text tower and the tokenizer of {facts.vocabulary:,} tokens{few}"
    return (*found.reasons, what)


def form_of(towers: Towers, sidecar: Sidecar, gelu: str = "") -> TextForm:
    """What no tensor of the text tower shows. gelu: of the image tower, which OpenAI's text tower has too. Errors:
    `CheckpointError`."""
    own = towers.text.tensors
    if open_clip.wrote(sidecar):
        return open_clip.text_form(sidecar)
    if towers.source == "original" and "text.proj.bias" in own:
        return SIGLIP if len(own["text.tokens.weight"]) == TANH_VOCABULARY else replace(SIGLIP, gelu="erf")
    usual = SIGLIP if "bias" in own and towers.source == "transformers" else replace(CLIP, gelu=gelu or CLIP.gelu)
    act, eps = sidecar.get(str, "text_config.hidden_act"), sidecar.get(Small, "text_config.layer_norm_eps")
    end = sidecar.get(AnyCount, "text_config.eos_token_id")
    clean: Clean = "lower" if "siglip2" in sidecar.kind else ""
    return replace(
        usual, gelu=GELUS.get(act, "") if act else usual.gelu, eps=eps or usual.eps, clean=clean,
        end=None if (sidecar.kind, end) == LEGACY_END else end,
    )  # fmt: skip


def matching_variants(form: TextForm, towers: Towers) -> list[str]:
    """The text towers of such a form."""
    wanted = form.causal, form.summary, form.gelu, "text.proj.bias" in towers.text.tensors
    return [
        name
        for name, c in _text.VARIANTS.items()
        if (c.causal, c.summary, c.gelu, c.output_bias) == wanted and math.isclose(c.eps, form.eps, rel_tol=1e-3)
    ]


def text_keys(towers: Towers, form: TextForm, sidecar: Sidecar) -> dict[str, Any]:
    """The keys of the task, from the shapes of the text tower and what lies beside. Errors: `CheckpointError`."""
    tensors = towers.text.tensors
    (vocabulary, width), context = tensors["text.tokens.weight"].shape, len(tensors["text.position"])
    depth, hidden = count_blocks(tensors, "text.blocks."), tensors["text.blocks.0.mlp.fc1.weight"].shape[0]
    heads = sidecar.get(Whole, "text_config.num_attention_heads", f"{open_clip.TEXT}.heads")
    shape = {"width": width, "depth": depth, "heads": heads or max(1, width // HEAD_WIDTH), "vocabulary": vocabulary,
             "context": context, "mlp_ratio": hidden / width}  # fmt: skip
    for key, theirs in OPEN_SHAPE.items():
        path, stated = sidecar.find(AnyCount, (f"{open_clip.TEXT}.{theirs}",))
        if stated not in (None, shape[key]):
            what = f"{sidecar.path_of(path)} is {stated:,}, and the tensors have {shape[key]:,}"
            raise CheckpointError(what, f"remove {sidecar.file}, or bring the one of these weights")
    name = min(matching_variants(form, towers), key=lambda one: len(differing(one, shape)))
    loss = "sigmoid" if "bias" in tensors else "softmax"
    keys = {"text": name, "loss": loss, "vocabulary": vocabulary, "context": context}
    keys |= {f"text_{key}": value for key, value in differing(name, shape).items() if key not in keys}
    if form.summary == "end" and (end := end_token(form, vocabulary)) != _text.VARIANTS[name].end:
        keys["text_end"] = end
    return keys


def differing(name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a text tower that differ from those of a variant."""
    own = vars(_text.VARIANTS[name])
    return {key: value for key, value in shape.items() if abs(own[key] - value) > 1e-6}


def end_token(form: TextForm, vocabulary: int) -> int:
    """The id of the end token."""
    return vocabulary - 1 if form.end is None else form.end


def open_tokenizer(sidecar: Sidecar, tensors: Tensors, form: TextForm) -> Tokenizer:
    """The tokenizer beside the weights, for the length of the text tower. Errors: `CheckpointError`."""
    path = Path(sidecar.where) / TOKENIZER
    about = read_object(path.with_name("tokenizer_config.json"))
    stated = about.get("pad_token")
    pad = look_up(about, "pad_token.content") if isinstance(stated, dict) else stated
    rows, context = len(tensors["text.tokens.weight"]), len(tensors["text.position"])
    clean: Clean = form.clean or ("lower" if about.get("tokenizer_class") == "Siglip2Tokenizer" else "")
    side = SIDES.get(str(about.get("padding_side")), "right")
    tokenizer = fit_tokenizer(read_content(path), context, pad if isinstance(pad, str) else "", str(path), clean, side)
    check_tokenizer(tokenizer, path, rows, end_token(form, rows) if form.summary == "end" else None)
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, path: Path, rows: int, end: int | None) -> None:
    """Errors: `CheckpointError` for a tokenizer with more tokens than the text tower has rows, and for one whose texts
    do not end with the token at which the tower is summarised."""
    wrong, count = "", tokenizer.facts.vocabulary
    if count > rows and any(not SPARE.fullmatch(name) for name in tokenizer.names(range(rows, count))):
        wrong = f"it has {count:,} tokens, and the text tower {rows:,}"
    elif end is not None and (last := tokenizer.end) != end:
        wrong = f"its texts end with token {last}, and the text tower is summarised at token {end}"
    if wrong:
        fix = "bring the one of these weights, or remove it to take the image tower alone"
        raise CheckpointError(f"{path} is the tokenizer of another model: {wrong}", fix)
