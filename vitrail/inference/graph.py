"""The whole of a model as one graph: uint8 images in, its answer out. What is exported, served and measured is this
graph, and `predict` runs the same functions."""

from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.analysis.attention import attention, recorded_attention
from vitrail.analysis.hooks import backbone_of
from vitrail.analysis.rollout import rollout_of, split_pool
from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.contracts import DenseTask, HeadedModel
from vitrail.errors import UsageError

ImageType = Literal["uint8", "float32"]
ATTENTION = "attention"  # the output that is there on request
# By `Task.output`; the first one is what `Task.predict` or `DenseTask.predict_windows` returns.
OUTPUTS = {"classes": ("probabilities",), "masks": ("logits", "masks"), "boxes": ("boxes",),
           "features": ("features",)}  # fmt: skip


class InferenceGraph(nn.Module):
    """Images [B C H W], resized as `Preprocess.image` or `Preprocess.windows` does, to the outputs of `names`:

    probabilities float32 [B K]
    logits        float32 [B K H W], masks uint8 [B H W], the likeliest class of each pixel
    features      float32 [B D]
    boxes         float32 [B Q 6]: left, top, right, bottom in pixels of the image, score, class; the best first
    attention     float32 [B h w], on request: the attention rollout of the backbone, as `analysis.rollout` has it

    images: uint8, or with `image_type` "float32" floats in [0, 1]. Boxes also take `sizes` int64 [B 2]: height and
    width of each image at the top left of its canvas, the rest of which is padding.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bundle: ModelBundle, image_type: ImageType = "uint8", attention: bool = False):
        """Errors: `UsageError` for a generative model, and for a rollout that the model does not have."""
        super().__init__()
        if bundle.task.is_generative:
            raise UsageError("the model generates images, and has no answer to one that could be written as a graph",
                             "vitrail sample RUN runs it; samplers are not exported")  # fmt: skip
        pre = build_preprocess(bundle.recipe.input)
        self.model, self.task, self.image_type = bundle.model.eval(), bundle.task, image_type
        self.names = OUTPUTS[bundle.task.output]
        self.takes_sizes = isinstance(bundle.model, HeadedModel) and bundle.model.takes_sizes
        self.channels, self.size = pre.channels, pre.size
        least = bundle.model.any_size_from if isinstance(bundle.model, HeadedModel) else 0
        self.least_size = least  # pixels along a side, where any size will do
        self.any_size = 0 < least <= min(pre.size)  # whether it may be traced for any
        for name, values in (("mean", pre.mean), ("std", pre.std)):
            device = next(bundle.model.parameters()).device
            self.register_buffer(name, torch.tensor(values, device=device)[:, None, None], persistent=False)
        self.attention = attention
        if attention:
            self.any_size = check_rollout(self) and self.any_size
            self.names = (*self.names, ATTENTION)

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("images", "sizes") if self.takes_sizes else ("images",)

    def example(self, any_size: bool) -> tuple[Tensor, ...]:
        """Two images, black, and their sizes where it takes them. any_size: of another size than the model's own, so
        that nothing is traced that holds at that one alone."""
        height, width = (
            n + k * self.least_size // 2 + 3 if any_size else n for n, k in zip(self.size, (1, 2), strict=True)
        )
        dtype = torch.uint8 if self.image_type == "uint8" else torch.float32
        images = torch.zeros(2, self.channels, height, width, dtype=dtype)
        return (images, torch.tensor([[height, width]] * 2)) if self.takes_sizes else (images,)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if not self.attention:
            return self.answer(images, sizes)
        backbone = backbone_of(self.model)
        with recorded_attention(backbone, heads="mean") as results:
            answer = self.answer(images, sizes)
        return (*answer, rollout_of(results(), backbone))

    def answer(self, images: Tensor, sizes: Tensor | None) -> tuple[Tensor, ...]:
        """All outputs but the attention."""
        pixels = images.float() / 255 if self.image_type == "uint8" else images
        x = (pixels - self.mean) / self.std
        task = self.task
        if not isinstance(task, DenseTask):
            return (task.predict(self.model, x).float(),)
        if sizes is None:
            sizes = torch.tensor([x.shape[-2:]], device=x.device).expand(x.shape[0], 2)
        rows = task.predict_windows(self.model, x, sizes)
        return (rows,) if len(OUTPUTS[task.output]) == 1 else (rows, rows.argmax(1).to(torch.uint8))


@torch.no_grad()
def check_rollout(graph: InferenceGraph) -> bool:
    """Whether a rollout may be traced for any size: where all layers are over the same cells, each of which is a query
    and a key; else it resizes maps by their sizes in numbers. Errors: `UsageError` for a model whose attention is not
    one sequence of layers over the same tokens."""
    backbone, parameter = backbone_of(graph.model), next(graph.model.parameters())
    try:
        black = torch.zeros(1, graph.channels, *graph.size, device=parameter.device)
        recorded = attention(backbone, black, heads="mean")
        rollout_of(recorded, backbone)
    except UsageError as error:
        what = f"{type(backbone).__name__} has no attention rollout: {error.what}"
        raise UsageError(what, "leave --attention out; vitrail look shows what the model looks at") from None
    layers, _ = split_pool(recorded)
    grids = {side.maps[0].grid for one in layers for side in (one.queries, one.keys)}
    return len(grids) == 1 and all(len(one.query_index) == 1 for one in layers)
