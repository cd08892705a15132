"""Names of Swin V2 weights: those of `swin` except inside attention."""

from typing import Any

from vitrail.models.swin_v2 import VARIANTS
from vitrail.weights.clues import Clues, Open
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.sidecars import CountOf, Whole
from vitrail.weights.tables import swin
from vitrail.weights.tables.swin import AGAIN, BUFFERS, EARLIER, OURS, SAME, STEM, torchvision

COORDINATES = Drop("{rest}.relative_coords_table", AGAIN)
BIAS = (  # the MLP of the relative bias: theirs is a sequence of linear, ReLU, linear
    Rule("attn.cpb_mlp.0.weight", "attn.relative.weight1"),
    Rule("attn.cpb_mlp.0.bias", "attn.relative.bias1"),
    Rule("attn.cpb_mlp.2.weight", "attn.relative.weight2"),
)
BLOCKS = (
    *(Rule(f"{OURS}.{r.theirs}", f"{OURS}.{r.ours}") for r in BIAS),
    Rule("layers.{s}.blocks.{rest}", "layers.{s}.blocks.{rest}"),
    Rule("norm.{p}", "norm.{p}"),
)

THEIRS = "swinv2.encoder.layers.{s}.blocks.{b}"
TRANSFORMERS: tuple[Rule | Drop, ...] = (  # on disk and in memory alike
    Drop("{rest}.relative_position_index", AGAIN),
    COORDINATES,
    Rule("swinv2.embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("swinv2.embeddings.norm.{p}", "patch_norm.{p}"),
    *(Rule(f"swinv2.encoder.layers.{s}.downsample.{{rest}}", f"layers.{s + 1}.downsample.{{rest}}") for s in range(3)),
    Rule(f"{THEIRS}.layernorm_before.{{p}}", f"{OURS}.norm1.{{p}}"),
    Rule(f"{THEIRS}.layernorm_after.{{p}}", f"{OURS}.norm2.{{p}}"),
    Rule(f"{THEIRS}.attention.self.continuous_position_bias_mlp.0.weight", f"{OURS}.attn.relative.weight1"),
    Rule(f"{THEIRS}.attention.self.continuous_position_bias_mlp.0.bias", f"{OURS}.attn.relative.bias1"),
    Rule(f"{THEIRS}.attention.self.continuous_position_bias_mlp.2.weight", f"{OURS}.attn.relative.weight2"),
    Rule(f"{THEIRS}.attention.self.logit_scale", f"{OURS}.attn.logit_scale"),
    Rule(
        tuple(f"{THEIRS}.attention.self.{x}.weight" for x in ("query", "key", "value")),
        f"{OURS}.attn.qkv.weight",
        "fuse",
    ),
    Rule(f"{THEIRS}.attention.self.query.bias", f"{OURS}.attn.q_bias"),
    Rule(f"{THEIRS}.attention.self.value.bias", f"{OURS}.attn.v_bias"),
    Rule(f"{THEIRS}.attention.output.dense.{{p}}", f"{OURS}.attn.proj.{{p}}"),
    Rule(f"{THEIRS}.intermediate.dense.{{p}}", f"{OURS}.mlp.fc1.{{p}}"),
    Rule(f"{THEIRS}.output.dense.{{p}}", f"{OURS}.mlp.fc2.{{p}}"),
    Rule("swinv2.layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "heads.0.{p}"),
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": (COORDINATES, *BUFFERS, *STEM, SAME, *BLOCKS, Rule("head.fc.{p}", "heads.0.{p}")),
    "original": (COORDINATES, *BUFFERS, *STEM, *EARLIER, *BLOCKS, Rule("head.{p}", "heads.0.{p}")),
    "torchvision": (COORDINATES, *torchvision((
        *BIAS,
        Rule("attn.logit_scale", "attn.logit_scale"),
        Rule("attn.qkv.bias", ("attn.q_bias", "attn.v_bias"), "keyless"),
    ))),
    "transformers": TRANSFORMERS,
}  # fmt: skip

CONFIG_NAMES = {**swin.CONFIG_NAMES, "window": ("window_size", "model_args.window_size")}
WINDOW = "the window and the image size"


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows. Its window is in buffers that only some sources save, else a sidecar has it."""
    fields, scales = swin.stage_fields(clues), clues.stage_shapes("layers.{}.blocks.0.attn.logit_scale")
    if fields is None or any(len(scale) != 3 for scale in scales):
        return None
    fields |= {"heads": tuple(scale[0] for scale in scales), "qkv_bias": clues.has("layers.0.blocks.0.attn.q_bias")}
    windows = [t.shape[1] // 2 + 1 for n, t in clues.raw.items() if n.endswith("relative_coords_table") and t.ndim == 4]
    index = [t for n, t in clues.raw.items() if n.endswith("relative_position_index")]
    windows += [round(t.numel() ** 0.25) for t in index]
    window = max(windows) if windows else clues.sidecar.get(Whole, *CONFIG_NAMES["window"])
    fields["window"] = Open((8, 16), WINDOW) if window is None else window
    fields["size"] = clues.stated_size() or Open(((256, 256), (192, 192)), WINDOW)
    names = ("pretrained_window_sizes", "model_args.pretrained_window_sizes")
    trained = clues.sidecar.get(tuple[CountOf, CountOf, CountOf, CountOf], *names)
    published = any((c.width, c.depths) == (fields["width"], fields["depths"]) for c in VARIANTS.values())
    if trained is not None or clues.source.startswith("torchvision") or clues.sidecar.writer or not published:
        fields["pretrained_windows"] = trained if trained and all(trained) else None
    else:
        fields["pretrained_windows"] = Open((None, (12, 12, 12, 6)), "the windows of its pre-training")
    return fields
