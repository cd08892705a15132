"""The maps that `/attention` answers with: of a model in torch, or of an exported file that has them as an output."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch

from vitrail.analysis.cost import on_meta_device
from vitrail.analysis.overlay import compute_extent
from vitrail.assembly.model import assemble_model
from vitrail.evaluation.look import HeatMap, available_maps, heat_map, whole_image
from vitrail.inference.exported import ExportedPredictor, read_info
from vitrail.inference.graph import ATTENTION
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.predictor import Predictor

HINT = "serve the run itself (--engine torch), or an export made with --attention"


class Maps(ABC):
    """kinds: those that there are, the one that is shown by default first."""

    kinds: tuple[str, ...]

    @abstractmethod
    def compute(self, image: np.ndarray, kind: str, label: int | None) -> HeatMap:
        """The map of an image uint8 [H W C]. label: the class, of those kinds that have one."""


class NoMaps(Maps):
    kinds = ()

    def compute(self, image: np.ndarray, kind: str, label: int | None) -> HeatMap:
        raise NotImplementedError  # it has no kind to be asked for


class TorchMaps(Maps):
    def __init__(self, predictor: Predictor):
        self.predictor, found = predictor, available_maps(predictor)
        self.kinds = ("rollout", "relevance") if found.rollout else ("gradient-cam",) if found.cam else ()

    def compute(self, image: np.ndarray, kind: str, label: int | None) -> HeatMap:
        return heat_map(self.predictor, image, kind, label)


class ExportedMaps(Maps):
    kinds = ("rollout",)

    def __init__(self, predictor: ExportedPredictor):
        self.predictor = predictor
        with on_meta_device():  # its strides are asked for, nothing is computed with it
            bundle = assemble_model(predictor.recipe, predictor.classes, predictor.task.multi_label)
        self.model = bundle.model

    def compute(self, image: np.ndarray, kind: str, label: int | None) -> HeatMap:
        pre = whole_image(self.predictor.preprocess)
        sizes = np.array([pre.scaled_size(*image.shape[:2])], np.int64)
        values = self.predictor.engine.run(pre.image(image)[None].numpy(), sizes)[ATTENTION][0]
        extent = compute_extent(self.model, pre.size, (values.shape[0], values.shape[1]))
        return HeatMap(kind, torch.from_numpy(np.asarray(values)), extent)


def find_maps(predictor: ImagePredictor) -> Maps:
    if isinstance(predictor, Predictor):
        return TorchMaps(predictor)
    if isinstance(predictor, ExportedPredictor) and ATTENTION in read_info(Path(predictor.source))[0].outputs:
        return ExportedMaps(predictor)
    return NoMaps()
