"""One model divided among processes by torch's FSDP2: every process holds a part of each weight, its gradient and its
optimizer's tensors, and gathers a block's weights when it is that block's turn (Zhao et al. 2023,
arxiv.org/abs/2304.11277).

Training runs on the divided model. Everything else (evaluation, samples, finished weights) sees a whole copy, gathered
for it: so it is the same code, and the same numbers, as of one process.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from vitrail.engine.precision import Precision
from vitrail.engine.processes.formulas import sharded_dimension
from vitrail.engine.processes.parallel import LossModule, all_blocks
from vitrail.engine.processes.tensors import divide
from vitrail.engine.processes.whole_copy import Sharded
from vitrail.engine.processes.world import NEVER, World
from vitrail.engine.state import State
from vitrail.engine.teacher import MeanTeacher
from vitrail.layers.adaln import Modulation

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_mesh(world: World, shards: int) -> DeviceMesh:
    """The processes in a row, or in rows of `shards` neighbours; collective."""
    kind = world.device.type
    if shards == world.size:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    rows = torch.arange(world.size).view(-1, shards)
    groups: list[Any] = [None, None]
    for dimension, lines in enumerate((rows.T, rows)):  # every process creates every group
        for ranks in lines.tolist():
            # like the group of all, without a time-out of its own: see `processes/peers.py`
            group = dist.new_group(ranks, timeout=NEVER)
            if world.rank in ranks:
                groups[dimension] = group
    return DeviceMesh.from_group(groups, kind, mesh=rows, mesh_dim_names=("replicate", "shard"))


def blank_copy(net: nn.Module) -> nn.Module:
    """A copy of a model whose parameters take no memory; its buffers are copied."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in net.parameters()
    }
    return copy.deepcopy(net, memo)


def shard_module(
    loss_of: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    dtype: torch.dtype | None,
    is_trained: bool = True,
) -> None:
    """Divides a loss with its model in place, or a model that is run but not trained: each block by itself, everything
    else together.

    Blocks, and all modulations of a denoiser's blocks together, are gathered in `dtype`, None for fp32; what is outside
    of them (position tables, tokens, the head) in fp32, and so is the sum that runs through the blocks, as without
    FSDP. Gradients are summed in fp32.
    """
    shards = mesh.size(mesh.ndim - 1)

    def place(p: nn.Parameter) -> Shard:
        return Shard(sharded_dimension(p.shape, shards))

    for p in loss_of.parameters():
        p.data = p.data.contiguous()  # FSDP has no channels-last weights
    # inputs are cast by autocast where a layer needs it: times of a denoiser would be rounded
    low = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    exact = MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False)
    blocks = list(blocks)
    # a denoiser computes what all blocks take of times and labels before the first block
    early: list[nn.Module] = [m.linear for block in blocks for m in block.modules() if isinstance(m, Modulation)]
    if early:
        fully_shard(early, mesh=mesh, mp_policy=low, shard_placement_fn=place)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=low, shard_placement_fn=place)
    # what is outside is kept for the backward pass, where there is one
    freed = None if is_trained else True
    fully_shard(loss_of, mesh=mesh, mp_policy=exact, shard_placement_fn=place, reshard_after_forward=freed)


def divide_state(
    state: State,
    loss_of: LossModule,
    blank: nn.Module,
    mesh: DeviceMesh,
    precision: Precision,
    lists: Iterable[list[nn.Parameter]] = (),
) -> None:
    """Divides the model of a state that has done no step, its averages and what its optimizer refers to, in place.
    lists: of parameters that refer to those of the model too. blank: see `Sharded`."""
    assert not state.optimizer.state
    old = dict(state.model.named_parameters())
    # autocast takes 16-bit weights of norms on GPUs only
    dtype = DTYPES.get(precision.name) if precision.device == "cuda" else None
    shard_module(loss_of, all_blocks(state.model), mesh, dtype)
    divided = dict(state.model.named_parameters())
    for average in state.averages.values():
        if average is state.ema and isinstance(state.task, MeanTeacher):
            average.module.requires_grad_(False)
            shard_module(average.module, all_blocks(average.module), mesh, dtype, is_trained=False)
        else:
            shard_average(average.module, divided)
    new = {id(p): divided[name] for name, p in old.items()}
    for parameters in [*(group["params"] for group in state.optimizer.param_groups), *lists]:
        parameters[:] = [new[id(p)] for p in parameters]
    state.sharded = Sharded(loss_of, blank, mesh.size(mesh.ndim - 1))


def shard_average(average: nn.Module, like: dict[str, nn.Parameter]) -> None:
    """Divides averaged weights as the parameters that they are an average of; they are never run."""
    for path, module in average.named_modules():
        for leaf, p in list(module.named_parameters(recurse=False)):
            own = nn.Parameter(divide(p.detach(), like[f"{path}.{leaf}".lstrip(".")]), requires_grad=False)
            module.register_parameter(leaf, own)
