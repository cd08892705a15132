"""What training needs and moves in several processes, by formulas alone: memory, padding and bytes. No torch.

A model of L blocks with N tokens of width d has values = N d L numbers in the outputs of its blocks for one image; for
stages of several sizes it is the sum over the blocks.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

WEIGHTS, GRADIENTS, ADAM = 4, 4, 8  # bytes of a parameter in fp32; Adam keeps two numbers for each
STATE = WEIGHTS + GRADIENTS + ADAM  # 16
# Bytes of activations in bf16 for each number in the output of a block: everything that the backward pass reads; what
# selective checkpointing keeps (the input, attention, and the products that are no wider than their input); the input.
ACTIVATIONS = {"none": 34, "selective": 8, "full": 2}
MUCH_PADDING = 1.1  # above which a parameter is divided along another dimension, where one divides without padding


class Shape(NamedTuple):
    """The shape of a parameter, and whether it is inside a block: blocks are gathered twice a step, the rest once."""

    sides: tuple[int, ...]
    in_block: bool


class Traffic(NamedTuple):
    """Of a training step, for each process: bytes that come out of its all-gathers, go into its reduce-scatters and
    its all-reduces, padding included; and the numbers of its shard of the parameters."""

    all_gather: int
    reduce_scatter: int
    all_reduce: int
    shard: int


def nearest_batches(batch: int, processes: int) -> list[int]:
    """The largest batch below and the smallest above that so many processes share equally.

    >>> nearest_batches(100, 8), nearest_batches(3, 8)
    ([96, 104], [8])
    """
    return [b for b in (batch // processes * processes, -(-batch // processes) * processes) if b]


def checkpointing_of(grad_checkpoint: bool | str) -> str:
    """The key of `ACTIVATIONS` that a recipe means.

    >>> checkpointing_of(True), checkpointing_of(False), checkpointing_of("selective")
    ('full', 'none', 'selective')
    """
    if isinstance(grad_checkpoint, bool):
        return "full" if grad_checkpoint else "none"
    return grad_checkpoint


def state_bytes(parameters: int, shards: int = 1, averages: int = 0) -> int:
    """Bytes of weights, gradients, optimizer and averages of weights, on each of `shards` processes.

    >>> state_bytes(1000), state_bytes(1000, shards=8)
    (16000, 2000)
    """
    return ceil(parameters / shards) * (STATE + WEIGHTS * averages)


def activation_bytes(values: int, checkpointing: str = "none", number_bytes: int = 2) -> int:
    """Bytes of the activations of one image; of ViT-B/16 at 224 pixels in bf16:

    >>> activation_bytes(197 * 768 * 12), activation_bytes(197 * 768 * 12, "full")
    (61728768, 3631104)
    """
    return values * ACTIVATIONS[checkpointing] * number_bytes // 2


def kept_share(checkpointing: str, blocks: int) -> float:
    """The share of all activations that a step of so many blocks holds at once: what is kept of each, and all of the
    one that is computed again.

    >>> kept_share("none", 12), round(kept_share("full", 17) * 34, 3)
    (1.0, 4.0)
    """
    again = 1 / blocks if checkpointing != "none" else 0.0
    return min(1.0, ACTIVATIONS[checkpointing] / ACTIVATIONS["none"] + again)


def sharded_dimension(sides: Sequence[int], shards: int) -> int:
    """The dimension along which a parameter is divided: the first, but where that would be padded by more than a tenth
    the longest that needs no padding, if any does.

    >>> sharded_dimension((197, 768), 8), sharded_dimension((1, 768), 8), sharded_dimension((768, 3072), 1024)
    (0, 1, 1)
    """
    if not sides or sides[0] == 0 or ceil(sides[0] / shards) * shards <= MUCH_PADDING * sides[0]:
        return 0
    even = [i for i in range(1, len(sides)) if sides[i] % shards == 0]
    return max(even, key=lambda i: sides[i], default=0)


def shard_numbers(sides: Sequence[int], shards: int) -> int:
    """The numbers of a parameter on one process, padding included.

    >>> shard_numbers((197, 768), 8) / 768, shard_numbers((768,), 1024)
    (25.0, 1)
    """
    if not sides:
        return 1
    dimension = sharded_dimension(sides, shards)
    return prod(ceil(side / shards) if i == dimension else side for i, side in enumerate(sides))


def sharded_traffic(shapes: Sequence[Shape], shards: int, replicas: int = 1, block_bytes: int = 2) -> Traffic:
    """Of FSDP (one replica) and HSDP: blocks are gathered for the forward and again for the backward pass, in
    `block_bytes` a number, the rest once in fp32; gradients are reduced in fp32, first among the shards."""
    each = [(shard_numbers(s.sides, shards), s.in_block) for s in shapes]
    mine = sum(n for n, _ in each)
    gathered = shards * sum(n * (2 * block_bytes if in_block else WEIGHTS) for n, in_block in each)
    if shards == 1:
        return Traffic(0, 0, mine * GRADIENTS if replicas > 1 else 0, mine)
    return Traffic(gathered, shards * mine * GRADIENTS, mine * GRADIENTS if replicas > 1 else 0, mine)


def replicated_traffic(shapes: Sequence[Shape]) -> Traffic:
    """Of DDP: one all-reduce of all gradients."""
    mine = sum(prod(s.sides) for s in shapes)
    return Traffic(0, 0, mine * GRADIENTS, mine)


def wire_bytes(traffic: Traffic, shards: int, replicas: int = 1) -> int:
    """Bytes that a process sends in a step, by rings: of a gather and a reduce-scatter all but its own part, of an
    all-reduce twice that."""
    others = (shards - 1) / shards
    among = (replicas - 1) / replicas
    return round((traffic.all_gather + traffic.reduce_scatter) * others + 2 * traffic.all_reduce * among)


def padding(shapes: Sequence[Shape], shards: int) -> float:
    """How many times its fair share of the parameters a process holds.

    >>> padding([Shape((8, 4), True)], 8), padding([Shape((1, 3), True)], 8)
    (1.0, 8.0)
    """
    whole = sum(prod(s.sides) for s in shapes)
    return shards * sum(shard_numbers(s.sides, shards) for s in shapes) / whole if whole else 1.0
