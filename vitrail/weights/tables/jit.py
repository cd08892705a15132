"""Names of published JiT weights. In the authors' checkpoints every name begins with "net."."""

from typing import Any

from vitrail.models.jit import VARIANTS
from vitrail.weights.clues import Clues, Open
from vitrail.weights.preprocessing import GENERATED, Preprocessing
from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables.dit import COMPUTED, Table, block_fields, embedding_rules, table_size


def original(p: str) -> Table:
    """p: prefix of every name."""
    return (
        Drop(f"{p}pos_embed", COMPUTED),
        Rule(f"{p}in_context_posemb", "context", "row"),
        *embedding_rules(f"{p}t_embedder.mlp.", "0", "2", f"{p}y_embedder."),
        Rule(f"{p}x_embedder.{{rest}}", "patch_embed.{rest}"),
        Rule(f"{p}blocks.{{i}}.adaLN_modulation.1.{{p}}", "blocks.{i}.modulation.linear.{p}"),
        Rule(f"{p}blocks.{{rest}}", "blocks.{rest}"),
        Rule(f"{p}final_layer.adaLN_modulation.1.{{p}}", "out.modulation.linear.{p}"),
        Rule(f"{p}final_layer.norm_final.{{p}}", "out.norm.{p}"),
        Rule(f"{p}final_layer.linear.{{p}}", "out.linear.{p}"),
    )


SOURCES: dict[str, tuple[Rule | Drop, ...]] = {"original": original(""), "original:net": original("net.")}
PREPROCESSING: dict[str, Preprocessing] = {"original": GENERATED}

RATIO = 4.0  # of every published model


def infer(clues: Clues) -> dict[str, Any] | None:
    """The config that a file shows. The first block with class tokens is that of the published model of this depth."""
    first, gated = clues.shape("patch_embed.proj1.weight"), clues.shape("blocks.0.mlp.w12.weight")
    fields = block_fields(clues, [])
    if fields is None or len(first) != 4 or len(gated) != 2:
        return None
    width, hidden = fields["width"], gated[0] // 2
    same = [c.context_start for c in VARIANTS.values() if (c.width, c.depth) == (width, fields["depth"])]
    context = clues.shape("context")
    fields |= {
        "mlp_ratio": RATIO if int(int(width * RATIO) * 2 / 3) == hidden else (hidden * 1.5 + 1) / width,
        "patch": first[2],
        "channels": first[1],
        "bottleneck": first[0],
        "context": context[0] if context else 0,
        "context_start": same[0] if same else Open((4, 8), "the first block that has class tokens"),
    }
    name = "net.pos_embed" if "net.pos_embed" in clues.raw else "pos_embed"
    return {**fields, **table_size(clues, name, first[2])}
