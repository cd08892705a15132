"""PyTorch itself as an engine: the model as it is in memory."""

import numpy as np
import torch

from vitrail.assembly.model import ModelBundle
from vitrail.engine.precision import Precision
from vitrail.inference.engine import Arrays, Engine
from vitrail.inference.graph import InferenceGraph


class TorchEngine(Engine):
    """The graph of a bundle, on the device where its parameters are."""

    def __init__(self, bundle: ModelBundle, precision: str = "fp32", graph: InferenceGraph | None = None):
        """graph: of the bundle, with options of its own."""
        self.graph = graph or InferenceGraph(bundle)
        self.device = next(bundle.model.parameters()).device
        self.precision = Precision(precision, self.device.type)
        self.name = "torch" if precision == "fp32" else f"torch {precision}"

    @torch.inference_mode()
    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        given = torch.from_numpy(images).to(self.device)
        given = given if self.graph.image_type == "uint8" else given.float() / 255
        with self.precision.autocast():
            values = self.graph(given, torch.from_numpy(sizes).to(self.device))
        return {name: v.cpu().numpy() for name, v in zip(self.graph.names, values, strict=True)}
