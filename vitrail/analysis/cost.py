"""The cost of a model, counted by torch's FLOP counter on the meta device: nothing is computed, any size is fast."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitrail.analysis.hooks import backbone_of, block_list
from vitrail.contracts import Denoiser, Trunk
from vitrail.layers.attention import named_attentions

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """`macs`, for one image: multiply-adds of matrix products, convolutions and attention (papers call them FLOPs).
    `attention_bytes`: fp32 attention weights of all layers, if they were materialised as for inspection; the fused
    kernel never stores them. Where attention is sparse, both count the visible pairs. `activation_bytes`: fp32 outputs
    of every leaf module that computes something, about the memory of training. These two are of `batch` images."""

    size: tuple[int, int]  # height and width of the image
    batch: int
    parameters: int
    trainable: int
    macs: int
    attention_bytes: int
    activation_bytes: int
    parameter_bytes: int
    by_part: dict[str, int]  # multiply-adds of stages, other parts and head; their sum is `macs`

    def lines(self) -> list[str]:
        """The same as lines of text."""
        many = f", {self.batch} images" if self.batch > 1 else ""
        rows = [
            (
                "parameters",
                f"{self.parameters:,}"
                + ("" if self.trainable == self.parameters else f" ({self.trainable:,} trainable)"),
            ),
            ("multiply-adds", format_macs(self.macs)),
            ("attention weights", f"{format_bytes(self.attention_bytes)} if written out{many}"),
            ("activations", f"{format_bytes(self.activation_bytes)}{many}"),
            ("weights on disk", format_bytes(self.parameter_bytes)),
        ]
        return [f"{name:<18} {value}" for name, value in rows]


def format_macs(macs: int) -> str:
    return f"{macs / 1e9:,.3f} G" if macs >= 1e8 else f"{macs / 1e6:.3f} M"


def format_bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"


def cost(model: nn.Module, size: tuple[int, int] | int | None = None, batch: int = 1) -> Cost:
    """The cost of one image of `size` (height, width), by default the model's own; memory is that of `batch` of them.
    The model is not changed.
    """
    channels, own = input_shape(model)
    size = own if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    ghost = copy_to_meta(model)
    with torch.no_grad(), on_meta_device():
        one = record_forward(ghost, make_inputs(ghost, 1, channels, size))
        memory = one if batch == 1 else record_forward(ghost, make_inputs(ghost, batch, channels, size))
    counts = {name: sum(ops.values()) // 2 for name, ops in one.counter.get_flop_counts().items()}
    by_part = count_parts(ghost, counts, one.overcounted)
    return Cost(
        size=size,
        batch=batch,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        macs=sum(by_part.values()),
        attention_bytes=memory.attention,
        activation_bytes=memory.activations,
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        by_part=by_part,
    )


def input_shape(model: nn.Module) -> tuple[int, tuple[int, int]]:
    """Channels and size of the images that a model is built for."""
    inner: Any = backbone_of(model)
    return (inner.config.channels, inner.config.size) if isinstance(inner, Trunk) else (3, (224, 224))


INITIALISERS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_}


class EverythingOnMeta(TorchFunctionMode):
    """Creates tensors on the meta device even where the code names another device. Initial values are not computed,
    which meta tensors have none of: torch takes milliseconds to find that out for each."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in INITIALISERS and args[0].is_meta:
            return args[0]
        options = dict(kwargs or {})
        if options.get("device") is not None:
            options["device"] = torch.device("meta")
        return func(*args, **options)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Tensors created inside use no memory: parameters, images, and the tables and masks of the forward pass."""
    with torch.device("meta"), EverythingOnMeta():
        yield


def copy_to_meta(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device, in evaluation mode."""
    import copy

    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    for b in model.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(model, memo).eval()


class CostRecorder:
    """Counts the cost of a forward pass."""

    def __init__(self, counter: "FlopCounterMode") -> None:
        self.counter = counter
        self.attention = self.activations = 0  # bytes
        # multiply-adds by attention that torch counts too much: of the second projection, or skipped by a sparse kernel
        self.overcounted: Counter[str] = Counter()
        self.reprojecting = False

    def attends(self, name: str) -> Any:
        def hook(module: Any, args: tuple) -> None:
            before = self.counter.get_total_flops()
            self.reprojecting = True  # a second projection, for the shapes; its activations do not count
            inputs = module.inputs(*args)
            self.reprojecting = False
            self.overcounted[name] += (self.counter.get_total_flops() - before) // 2
            q, k, v = inputs[:3]
            rows, every = q.shape[0] * q.shape[1], q.shape[2] * k.shape[2]
            pairs = every if inputs.visible is None else inputs.visible.count_pairs()
            self.attention += rows * pairs * 4
            self.overcounted[name] += rows * (every - pairs) * (q.shape[3] + v.shape[3])

        return hook

    def activates(self, module: nn.Module, args: tuple, out: Any) -> None:
        if isinstance(out, torch.Tensor) and not self.reprojecting:
            self.activations += out.numel() * 4


def make_inputs(model: nn.Module, batch: int, channels: int, size: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """The inputs of a model: images, and for a denoiser times and labels."""
    images = torch.empty(batch, channels, *size)
    return (
        (images, torch.zeros(batch), torch.zeros(batch, dtype=torch.int64))
        if isinstance(model, Denoiser)
        else (images,)
    )


def record_forward(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> CostRecorder:
    """The counts of one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        recorder = CostRecorder(counter)
        hooks = [m.register_forward_pre_hook(recorder.attends(name)) for name, m in named_attentions(model).items()]
        leaves = [m for m in model.modules() if not any(m.children()) and not isinstance(m, nn.Identity)]
        hooks += [m.register_forward_hook(recorder.activates) for m in leaves]
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return recorder


def count_parts(model: nn.Module, counts: Mapping[str, int], overcounted: Mapping[str, int]) -> dict[str, int]:
    """The multiply-adds of every part of a model: the counter's by module name, without those overcounted."""
    top = type(model).__name__
    macs = {}
    for name, path in find_parts(model).items():
        inside = f"{path}."
        excess = sum(n for attention, n in overcounted.items() if f"{attention}.".startswith(inside))
        macs[name] = count_inside(model.get_submodule(path), f"{top}.{path}", counts) - excess
    rest = counts.get("Global", 0) - sum(overcounted.values()) - sum(macs.values())
    return {name: n for name, n in {**macs, "between parts": rest}.items() if n}


def find_parts(model: nn.Module) -> dict[str, str]:
    """Names of the parts of a model and their paths: those of the backbone, then the head. A list of blocks is one
    part; every entry of another list, such as stages, is one."""
    paths = {}
    backbone = backbone_of(model)
    blocks = {id(block) for block in block_list(model)}
    prefix = "" if backbone is model else "backbone."
    for name, part in backbone.named_children():
        if isinstance(part, nn.ModuleList) and not all(id(m) in blocks for m in part):
            paths.update({f"{name}.{i}": f"{prefix}{name}.{i}" for i in range(len(part))})
        else:
            paths[name] = f"{prefix}{name}"
    if backbone is not model:
        paths.update({name: name for name, _ in model.named_children() if name != "backbone"})
    return paths


def count_inside(module: nn.Module, path: str, counts: Mapping[str, int]) -> int:
    """The count of a module, or of its children if that is more: a list is never called, and a denoiser calls the
    modulations of its blocks before the blocks."""
    within = sum(count_inside(child, f"{path}.{name}", counts) for name, child in module.named_children())
    return max(counts.get(path, 0), within)


def fit_exponent(costs: Sequence[Cost], name: str) -> float | None:
    """p, where the field `name` grows as pixels^p from the smallest image to the largest; None where it cannot be
    fitted."""
    ends = min(costs, key=pixels), max(costs, key=pixels)
    first, last = (getattr(end, name) for end in ends)
    if pixels(ends[0]) == pixels(ends[1]) or not first or not last:
        return None
    return log(last / first) / log(pixels(ends[1]) / pixels(ends[0]))


def pixels(of: Cost) -> int:
    return of.size[0] * of.size[1]


def classify_attention(costs: Sequence[Cost]) -> str:
    """The kind of attention of a model, inferred from the growth of its weights with the image size."""
    if not any(c.attention_bytes for c in costs):
        return "no attention weights: linear attention, or none"
    power = fit_exponent(costs, "attention_bytes")
    if power is None:
        return "kind of attention unknown: it needs sizes with different numbers of pixels"
    kind = "some of it global" if power < 1.75 else "global"
    if power < 1.25:
        kind = "windows or linear" if power > 0.5 else "windows or linear, but these images are too small to be certain"
    return f"attention weights grow as pixels^{power:.1f}: {kind}"
