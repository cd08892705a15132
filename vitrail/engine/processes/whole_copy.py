"""A model that is divided among processes, and whole copies of it."""

import copy

from torch import nn

from vitrail.engine.processes.tensors import whole_tensor


class Sharded:
    """A divided model. loss_of: its loss, in whose forward pass FSDP gathers; blank: the whole model without its
    weights."""

    def __init__(self, loss_of: nn.Module, blank: nn.Module, shards: int):
        self.loss_of, self.blank, self.shards = loss_of, blank, shards
        self.copy: nn.Module | None = None  # the whole weights that are evaluated, while they are needed

    def gather(self, model: nn.Module) -> nn.Module:
        """A whole copy of a divided model, on every process; collective. Gradients are copied with the weights."""
        whole = copy.deepcopy(self.blank)
        tensors = {name: whole_tensor(t) for name, t in model.state_dict().items()}
        whole.load_state_dict(tensors, assign=True)
        divided = dict(model.named_parameters())
        for name, p in whole.named_parameters():
            p.requires_grad_(divided[name].requires_grad)
            if divided[name].grad is not None:
                p.grad = whole_tensor(divided[name].grad)
        return whole
