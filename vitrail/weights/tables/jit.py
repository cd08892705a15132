"""Names of published JiT weights. In the authors' checkpoints every name begins with "net."."""

from vitrail.weights.rules import Drop, Rule
from vitrail.weights.tables.dit import COMPUTED, Table, embedding_rules


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
