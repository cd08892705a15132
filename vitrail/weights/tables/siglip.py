"""Names of the image towers of SigLIP and SigLIP 2: timm, transformers (a tower, or the whole model, whose text tower
is left out), and the .npz files of big_vision."""

from collections.abc import Mapping
from typing import Any

from vitrail.models.siglip import VARIANTS
from vitrail.weights.clues import Clues
from vitrail.weights.preprocessing import HALF, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables import _infer_vit, clip, vit
from vitrail.weights.tables._infer_vit import CONFIG_NAMES as CONFIG_NAMES

Table = tuple[Rule | Drop, ...]
STRETCHED = HALF._replace(resize_mode="stretch", crop_ratio=1.0)
FLEXIBLE = "transformers:naflex"  # SigLIP 2 for images of any shape: patches are rows of numbers


def transformers(p: str, classifier: bool = False) -> Table:
    """classifier: of the mean of the patches, as transformers has it, beside a pooling that it does not use."""
    h, ours = f"{p}head.", "attn_pool."
    head: list[Rule | Drop] = [
        Rule(f"{h}probe", f"{ours}attn.latent", "row"),
        Rule(f"{h}attention.in_proj_{{p}}", (f"{ours}attn.q.{{p}}", f"{ours}attn.kv.{{p}}"), "query_apart"),
        Rule(f"{h}attention.out_proj.{{p}}", f"{ours}attn.proj.{{p}}"),
        Rule(f"{h}layernorm.{{p}}", f"{ours}norm.{{p}}"),
        *(Rule(f"{h}mlp.fc{k}.{{p}}", f"{ours}mlp.fc{k}.{{p}}") for k in (1, 2)),
    ]
    if classifier:
        head = [
            Drop(f"{h}{{rest}}", "the classifier takes the mean of the patches"),
            Rule("classifier.{p}", "heads.0.{p}"),
        ]
    text = (Drop("text_model.{rest}", clip.TEXT), *(Drop(f"logit_{x}", clip.TEXT) for x in ("scale", "bias")))
    return (*text, *clip.tower(p), *head)


def naflex(p: str) -> Table:
    theirs, ours = f"{p}embeddings.patch_embedding", "patch_embed.proj"
    patches = (Rule(f"{theirs}.weight", f"{ours}.weight", "patches"), Rule(f"{theirs}.bias", f"{ours}.bias"))
    return (*patches, *(rule for rule in transformers(p) if rule.theirs != f"{theirs}.{{p}}"))


SOURCES: dict[str, Table] = {
    "timm": (*vit.POOL, *vit.SOURCES["timm"]),
    "timm:gap": vit.SOURCES["timm"],
    FLEXIBLE: naflex("vision_model."),  # before the others, which have these names too
    f"{FLEXIBLE}-tower": naflex(""),
    "transformers": transformers("vision_model."),
    "transformers:tower": transformers(""),
    "transformers:classifier": transformers("vision_model.", classifier=True),
    "google": (*vit.SOURCES["google:big_vision"], *vit.map_head()),
    "google:scanned": (*vit.SOURCES["google:scanned"], *vit.map_head()),
}
PREPROCESSING: dict[str, Preprocessing] = {
    "timm": HALF._replace(crop_ratio=0.9),
    "transformers": STRETCHED,  # of SigLIP 2 bilinear
    FLEXIBLE: STRETCHED._replace(interpolation="bilinear"),
    "google": STRETCHED._replace(interpolation="bilinear"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "timm": {"position_resampling": "antialias", "gelu": "erf"},  # but for the towers of `has_tanh`
    "timm:gap": {"position_resampling": "antialias", "gelu": "erf", "pool": "mean"},
    "transformers:classifier": {"pool": "mean"},
    FLEXIBLE: {"position_resampling": "antialias_bilinear"},
}


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows; what has neither a pooling query nor such a name beside it is a plain ViT."""
    fields = _infer_vit.infer(clues, VARIANTS)
    named = "siglip" in clues.sidecar.kind or clues.source == "transformers:classifier" or is_tower(clues, fields)
    if fields is None or fields["tokens"] or (fields["pool"] != "attention" and not named):
        return None
    return {**fields, **({"gelu": "tanh"} if has_tanh(fields) else {})}


def has_tanh(fields: Mapping[str, Any]) -> bool:
    """Whether timm too has the tanh form of GELU: in the towers that only SigLIP 2 has."""
    shape, size = (fields["width"], fields["patch"]), fields.get("size")
    return shape in ((1536, 16), (768, 32), (1152, 16)) or (*shape, size) == (1024, 16, (512, 512))


def is_tower(clues: Clues, fields: Mapping[str, Any] | None) -> bool:
    """Whether the mean of patches is that of a tower that only SigLIP 2 has, by its width, depth and patch."""
    if fields is None or clues.source != "timm:gap" or clues.sidecar.kind or not has_tanh(fields):
        return False
    sizes = [(c.width, c.depth, c.patch) for c in VARIANTS.values()]
    bare = _infer_vit.is_bare_mean(clues) and fields["qkv_bias"]
    return bare and (fields["width"], fields["depth"], fields["patch"]) in sizes
