"""Names of published CrossViT weights. timm writes pos_embed_0 where the original has pos_embed.0."""

from vitrail.weights.rules import Drop, Rule

SHARED = (
    Rule("patch_embed.{rest}", "patch_embed.{rest}"),
    Rule("blocks.{rest}", "blocks.{rest}"),
    Rule("norm.{rest}", "norm.{rest}"),
    Rule("head.{rest}", "heads.{rest}"),
)

SOURCES: dict[str, tuple[Rule | Drop, ...]] = {
    "timm": (
        *(Rule(f"pos_embed_{i}", f"position.{i}.table", "row") for i in range(2)),
        *(Rule(f"cls_token_{i}", f"tokens.{i}", "row") for i in range(2)),
        *SHARED,
    ),
    "original": (
        *(Rule(f"pos_embed.{i}", f"position.{i}.table", "row") for i in range(2)),
        *(Rule(f"cls_token.{i}", f"tokens.{i}", "row") for i in range(2)),
        *SHARED,
    ),
}
