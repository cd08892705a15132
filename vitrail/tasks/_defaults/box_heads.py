"""Which settings of detection belong to which head, and from how many boxes on a set predictor learns better."""

from collections.abc import Iterable
from typing import Literal

from vitrail.errors import UsageError

HeadKind = Literal["detr", "dense"]
OWN = {  # settings that one head has, by head
    "detr": {
        "queries", "kind", "maps", "heads", "encoder", "decoder", "hidden", "dropout", "class_cost", "box_cost",
        "giou_cost", "box_weight", "giou_weight", "no_object_weight",
    },
    "dense": {"convs", "radius", "candidates", "nms_iou"},
}  # fmt: skip


def foreign_keys(head: str, keys: Iterable[str]) -> dict[str, str]:
    """Those of some settings that a head does not have, and the head that has them."""
    return {key: other for key in keys for other, own in OWN.items() if other != head and key in own}


def head_of(keys: Iterable[str]) -> HeadKind:
    """The head that some settings belong to: "detr" where they are those of any, as recipes from before there was a
    choice have no other."""
    return "dense" if OWN["dense"].intersection(keys) else "detr"


def check_head(head: str, changed: Iterable[str]) -> None:
    """Errors: `UsageError` for the first of some settings that the head does not have."""
    for key, other in foreign_keys(head, changed).items():
        raise UsageError(
            f"task.{key} is a setting of head {other}, and the head is {head}",
            f"leave task.{key} out, or --task.head {other}",
        )
