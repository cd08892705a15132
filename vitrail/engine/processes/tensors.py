"""Tensors that are divided among processes, and the parts of them: the same functions take whole tensors."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class TensorShard(NamedTuple):
    """What this process holds of a tensor: its numbers, and where they begin in the whole. `is_mine`: whether this
    process is the one to save it; copies on other processes are not saved."""

    values: Tensor
    offsets: tuple[int, ...]
    is_mine: bool


def is_divided(t: Tensor) -> bool:
    """Whether a tensor is divided among processes: only where torch's module for that was imported, which takes longer
    than some runs."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def local_part(t: Any) -> Tensor:
    """What this process holds of a tensor; the memory is shared."""
    part: Tensor = t.to_local() if is_divided(t) else t
    return part


def whole_tensor(t: Any) -> Tensor:
    """The whole of a tensor; collective where it is divided."""
    whole: Tensor = t.detach().full_tensor() if is_divided(t) else t.detach()
    return whole


def divide(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a whole tensor that every process has, divided as another is; nothing is sent."""
    if not is_divided(like):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    on_device = whole.to(like.device)
    copy = DTensor.from_local(on_device, like.device_mesh, everywhere, run_check=False)
    return copy.redistribute(placements=like.placements)


def locate(t: Any, is_first: bool) -> TensorShard:
    """The piece of a tensor on this process. is_first: whether it is the one that saves what every process has."""
    if not is_divided(t):
        return TensorShard(t.detach(), (0,) * t.ndim, is_first)
    from torch.distributed.tensor import Shard

    mesh, offsets = t.device_mesh, [0] * t.ndim
    coordinate = mesh.get_coordinate()
    assert coordinate is not None
    is_mine = True
    for dimension, placement in enumerate(t.placements):
        if isinstance(placement, Shard):
            side = -(-t.shape[placement.dim] // mesh.size(dimension))
            offsets[placement.dim] = min(coordinate[dimension] * side, t.shape[placement.dim])
        else:
            is_mine = is_mine and coordinate[dimension] == 0
    return TensorShard(t.detach().to_local(), tuple(offsets), is_mine)


def norms(parts: Sequence[Tensor], like: Any) -> list[Tensor]:
    """The norm of each whole tensor from the parts of this process, divided as `like` is: by one sum over processes."""
    own = torch._foreach_norm(list(parts))
    if not is_divided(like):
        return list(own)
    squares = torch.stack(own).square()
    mesh = like.device_mesh
    dist.all_reduce(squares, group=mesh.get_group(mesh.ndim - 1))
    return list(squares.sqrt())
