"""Detection: set prediction (DETR, Carion et al. 2020), or one stage of cells (FCOS, Tian et al. 2019), which learns
from fewer boxes."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from vitrail.data.dataset import AnnotationKind
from vitrail.tasks._defaults.box_heads import check_head, head_of
from vitrail.tasks.detection.base import Detection
from vitrail.tasks.detection.evaluator import BoxEvaluator as BoxEvaluator
from vitrail.tasks.detection.evaluator import boxes_of_row as boxes_of_row
from vitrail.tasks.detection.fcos import CellDetection
from vitrail.tasks.detection.set_prediction import SetPrediction
from vitrail.validation import Count, Fraction, NonNegative, Positive, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "boxes"
DEFAULT_FOR = "backbone"


@dataclass(frozen=True)
class Config:
    """The published DETR is queries 100, kind "slots", encoder 6, decoder 6, width 256, hidden 2048, dropout 0.1,
    stride 32; FCOS as torchvision has it is head "dense", convs 4, width 256."""

    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # not supported
    head: Literal["auto", "detr", "dense"] = "auto"  # "dense": FCOS, for few boxes; "auto": by the settings
    stride: Count = 0  # of the finest map, with all coarser ones; 0: of detr the coarsest with 8 cells across, else 8
    neck: Literal["none", "simple"] = "none"  # "simple": a pyramid of a plain ViT's last map (ViTDet)
    width: Positive = 128
    queries: Positive = 50  # detr: the most objects in an image
    kind: Literal["anchors", "slots"] = "anchors"  # detr: queries are boxes that are refined, or learned embeddings
    maps: Literal["all", "last"] = "all"  # detr: of these maps, all, or the last alone, as of a dilated ResNet (DC5)
    heads: Positive = 8  # detr
    encoder: Count = 0  # detr: layers
    decoder: Positive = 3
    hidden: Positive = 512  # detr: width of the feed-forward layers
    dropout: Fraction = 0.0  # detr
    class_cost: NonNegative = 1.0  # detr: in matching
    box_cost: NonNegative = 5.0
    giou_cost: NonNegative = 2.0
    box_weight: NonNegative = 5.0  # detr: in the loss; that of the class is 1
    giou_weight: NonNegative = 2.0
    no_object_weight: UnitInterval = 0.1  # detr: weight of unmatched queries in the class loss
    convs: Count = 2  # dense: 3x3 convolutions of each of the two towers
    radius: PositiveFloat = 1.5  # dense: how far from the middle of an object cells learn from it, in cells
    candidates: Positive = 300  # dense: boxes of an image before suppression, those of the best scores
    nms_iou: UnitInterval = 0.6  # dense: the overlap above which two boxes of a class are the same object


HEADS: dict[str, type[Detection]] = {"detr": SetPrediction, "dense": CellDetection}  # by `Config.head`


def build(config: Config) -> Detection:
    """The task; `config.classes` must be known by now. Errors: `UsageError` for settings that the head does not
    have."""
    if config.classes < 1:
        raise ValueError("a detection needs its number of classes")
    changed = [f.name for f in fields(config) if getattr(config, f.name) != f.default]
    head = head_of(changed) if config.head == "auto" else config.head
    check_head(head, changed)
    return HEADS[head](replace(config, head=head))
