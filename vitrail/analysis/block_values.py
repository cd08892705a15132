"""The numbers in the outputs of all blocks for one image: N d L of a plain ViT. The memory of training goes with it."""

import torch
from torch import nn

from vitrail.analysis.block_outputs import BlockOutput, visit_outputs
from vitrail.analysis.cost import copy_to_meta, input_shape, make_inputs, on_meta_device


def count_block_values(model: nn.Module, size: tuple[int, int] | None = None) -> int:
    """For an image of `size` (height, width), by default the model's own; counted on the meta device. 0 for a model of
    which the blocks cannot be seen so."""
    channels, own = input_shape(model)
    count = 0

    def see(output: BlockOutput) -> None:
        nonlocal count
        count += output.raw.numel()

    try:
        ghost = copy_to_meta(model)
        with torch.no_grad(), on_meta_device():
            visit_outputs(ghost, make_inputs(ghost, 1, channels, size or own), see)
    except (RuntimeError, NotImplementedError):
        return 0
    return count
