"""A training on many GPUs in numbers: memory, bytes moved, time and data, for each way to divide the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isqrt
from typing import NamedTuple

from vitrail.engine.processes.choice import DDP, FSDP, HSDP, Needs, ParallelChoice, choose_parallel
from vitrail.engine.processes.formulas import (
    Shape,
    Traffic,
    activation_bytes,
    padding,
    replicated_traffic,
    sharded_traffic,
    state_bytes,
    wire_bytes,
)
from vitrail.report.plan.gpus import Gpu

USABLE = 0.85  # of a GPU's memory: libraries, fragments and buffers need some as well
RECOMPUTED = {"none": 3.0, "selective": 3.2, "full": 4.0}  # forward passes of a step, the backward pass being two
RANK_HOURS = 50_700.0  # hours of one GPU between two failures: Llama 3, 419 in 54 days of 16,384 GPUs
EQUAL = 1.02  # steps whose times are within 2 % are as fast as each other
SAVE_S, RESTART_S = 10.0, 600.0  # seconds of a step that a save costs, and from a failure to the next step


class ModelNumbers(NamedTuple):
    """macs: multiply-adds of a forward pass of one image; values: numbers in the outputs of its blocks."""

    name: str
    size: tuple[int, int]
    parameters: int
    macs: int
    values: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Training:
    """What is planned. batch: of all GPUs together; mfu: the share of the GPU's rate that training reaches, by the
    multiply-adds of the model alone; image_bytes and core_images_per_s (of one core that reads): of the data."""

    gpus: int
    per_machine: int
    batch: int
    gpu: Gpu
    mfu: float
    epochs: float
    images: int
    checkpointing: str
    averages: int
    image_bytes: int
    core_images_per_s: float


class Strategy(NamedTuple):
    """One way to divide a model. state, activations: bytes on each GPU; micro_batch: images at a time, the most that
    fit, 0 where not even one does; gathers: how often a step gathers and reduces; wire: bytes that a GPU sends in a
    step; padding: how many times its fair share it holds; comm_s: seconds of a step, if nothing overlaps."""

    name: str
    shards: int
    replicas: int
    state: int
    activations: int
    micro_batch: int
    accumulation: int
    traffic: Traffic
    wire: int
    comm_s: float
    padding: float


class Plan(NamedTuple):
    """recommended: the fastest of those that fit; auto: what a run chooses by memory alone, with its reason. compute_s:
    seconds of a step; step_s: with the communication that cannot hide behind it. save_every_s: the interval of
    checkpoints that loses least (Young 1974); lost: the share of time that failures and saves cost."""

    strategies: tuple[Strategy, ...]
    recommended: Strategy
    auto: ParallelChoice
    compute_s: float
    step_s: float
    images_per_s: float
    steps: int
    days: float
    data_bytes_per_s: float
    decode_cores: int
    checkpoint_bytes: int
    failure_every_s: float
    save_every_s: float
    lost: float


def plan_training(model: ModelNumbers, training: Training) -> Plan:
    """The numbers of a training."""
    strategies = tuple(divide(model, training, name) for name in ways(training))
    compute = compute_seconds(model, training)
    fitting = [s for s in strategies if s.micro_batch] or [strategies[-1]]
    best = min(step_seconds(s, compute) for s in fitting)
    chosen = next(s for s in fitting if step_seconds(s, compute) <= best * EQUAL)  # the simplest of equals
    step = step_seconds(chosen, compute)
    steps = ceil(training.epochs * training.images / training.batch)
    speed = training.batch / step
    failure = RANK_HOURS * 3600 / training.gpus
    interval = (2 * SAVE_S * failure) ** 0.5
    lost = SAVE_S / interval + interval / (2 * failure) + RESTART_S / failure
    return Plan(
        strategies, chosen, choose_parallel("auto", count_needs(model, training)), compute, step, speed, steps,
        steps * step * (1 + lost) / 86_400, speed * training.image_bytes, ceil(speed / training.core_images_per_s),
        model.parameters * (12 + 4 * training.averages), failure, interval, lost,
    )  # fmt: skip


def step_seconds(strategy: Strategy, compute_s: float) -> float:
    """Of arithmetic, and of the communication that does not fit behind it: gradients move during the backward pass, two
    thirds of it, parts of the weights during all of it."""
    return compute_s + max(0.0, strategy.comm_s - compute_s * (2 / 3 if strategy.shards == 1 else 1))


def ways(training: Training) -> Sequence[str]:
    """The ways to divide a model among so many GPUs."""
    several = training.gpus > training.per_machine > 1 and training.gpus % training.per_machine == 0
    return (DDP, FSDP, HSDP) if several else (DDP, FSDP) if training.gpus > 1 else (DDP,)


def count_needs(model: ModelNumbers, training: Training) -> Needs:
    """The same as a run counts before its first step."""
    budget = round(training.gpu.memory_gb * 1e9 * USABLE)
    images = training.batch // training.gpus
    return Needs(
        training.gpus, min(training.per_machine, training.gpus), model.parameters, training.averages, images,
        model.values, training.checkpointing, 2, budget, can_shrink=True,
    )  # fmt: skip


def divide(model: ModelNumbers, training: Training, name: str) -> Strategy:
    """One way to divide the model."""
    shards = {DDP: 1, FSDP: training.gpus, HSDP: training.per_machine}[name]
    replicas = training.gpus // shards
    state = state_bytes(model.parameters, shards, training.averages)
    each = activation_bytes(model.values, training.checkpointing)
    images = training.batch // training.gpus
    room = round(training.gpu.memory_gb * 1e9 * USABLE) - state
    micro = next((size for size in divisors(images) if size * each <= room), 0)
    accumulation = images // micro if micro else 0
    traffic = replicated_traffic(model.shapes) if shards == 1 else sharded_traffic(model.shapes, shards, replicas)
    repeated = traffic._replace(
        all_gather=traffic.all_gather * max(1, accumulation),
        reduce_scatter=traffic.reduce_scatter * max(1, accumulation),
    )
    return Strategy(
        name, shards, replicas, state, micro * each, micro, accumulation, traffic,
        wire_bytes(repeated, shards, replicas), communication_seconds(repeated, shards, replicas, training),
        padding(model.shapes, shards),
    )  # fmt: skip


def divisors(count: int) -> Sequence[int]:
    """The divisors of a number, largest first.

    >>> divisors(12)
    [12, 6, 4, 3, 2, 1]
    """
    small = [part for part in range(1, isqrt(count) + 1) if count % part == 0]
    return sorted({*small, *(count // part for part in small)}, reverse=True)


def communication_seconds(traffic: Traffic, shards: int, replicas: int, training: Training) -> float:
    """Seconds of a step's collectives by rings, as if nothing overlapped: those of shards within a machine go by its
    links, all others by the network."""
    inside, outside = training.gpu.link_bytes, training.gpu.network_bytes
    among_shards = (traffic.all_gather + traffic.reduce_scatter) * (shards - 1) / shards
    among_replicas = 2 * traffic.all_reduce * (replicas - 1) / replicas
    one_machine = training.gpus <= training.per_machine
    return among_shards / (inside if shards <= training.per_machine else outside) + among_replicas / (
        inside if one_machine else outside
    )


def compute_seconds(model: ModelNumbers, training: Training) -> float:
    """Seconds of a step's arithmetic. The share of the rate is of forward and backward pass; what checkpointing
    computes again comes on top."""
    flops = 2 * model.macs * 3 * training.batch / training.gpus
    return flops / (training.gpu.tflops * 1e12 * training.mfu) * RECOMPUTED[training.checkpointing] / 3
