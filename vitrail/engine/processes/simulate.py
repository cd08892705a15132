"""One training step as one of many processes would take it, with torch's fake process group and tensors without memory:
what is gathered and reduced, padding included, for any number of processes and any size of model, on one CPU. Nothing
is sent and nothing is computed, so it says nothing about time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitrail.engine.precision import Precision
from vitrail.engine.processes.formulas import Shape, Traffic
from vitrail.engine.processes.parallel import all_blocks
from vitrail.engine.processes.tensors import local_part
from vitrail.engine.processes.world import World
from vitrail.errors import RunError

CPU = torch.device("cpu")


class OutputSum(nn.Module):
    """All outputs of a model in one number, in the place of a loss."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs = [t for t in tree_leaves(self.model(*inputs)) if isinstance(t, Tensor) and t.is_floating_point()]
        return torch.stack([t.float().sum() for t in outputs]).sum()


class CollectiveBytes(TorchDispatchMode):
    """Counts the bytes that come out of all-gathers, and go into reduce-scatters and all-reduces."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gathered = self.scattered = self.reduced = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d._allgather_base_"):
            self.gathered += count_bytes(args[0])
        elif name.startswith("c10d._reduce_scatter_base_"):
            self.scattered += count_bytes(args[1])
        elif name.startswith("c10d.allreduce_"):
            self.reduced += sum(count_bytes(t) for t in args[0])
        return func(*args, **(kwargs or {}))


def count_bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def shapes_of(net: nn.Module) -> list[Shape]:
    """The parameters of a model, for the formulas."""
    inside = {id(p) for block in all_blocks(net) for p in block.parameters()}
    return [Shape(tuple(p.shape), id(p) in inside) for p in net.parameters()]


def simulate_step(
    net: nn.Module, inputs: Sequence[Tensor], processes: int, shards: int, precision: str = "bf16"
) -> Traffic:
    """The traffic of the first process in a step. net: a model on the meta device, which is used up; inputs: those of
    one image, of any device; shards: the processes that share a copy of the model, at least two.

    Errors: `RunError` in a process that is one of several.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from vitrail.engine.processes.fsdp import DTYPES, build_mesh, shard_module

    with fake_group(processes):
        mesh = build_mesh(World(0, processes, CPU), shards)  # real, and small
        with FakeTensorMode(allow_non_fake_inputs=True):
            net.to_empty(device=CPU)
            loss_of = OutputSum(net)
            shard_module(loss_of, all_blocks(net), mesh, DTYPES.get(precision))
            with CollectiveBytes() as counted:
                with Precision(precision, "cpu").autocast():
                    loss = loss_of(*(torch.zeros(t.shape, dtype=t.dtype) for t in inputs))
                loss.backward()
        own = sum(local_part(p).numel() for p in net.parameters())
    return Traffic(counted.gathered, counted.scattered, counted.reduced, own)


@contextmanager
def fake_group(processes: int) -> Iterator[None]:
    """A group of so many processes, of which this one is the first and the others do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RunError("this process is one of several, and cannot simulate others", "start it alone")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()
