"""The state of a run: the contents of a checkpoint."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vitrail.contracts import Task
from vitrail.engine.early_stopping import EarlyStoppingState
from vitrail.engine.processes.tensors import divide, local_part
from vitrail.engine.processes.whole_copy import Sharded
from vitrail.errors import CheckpointError
from vitrail.validation import EDITED


@dataclass
class State:
    """Order, augmentation, dropout and the learning rate are functions of (seed, step), so no generator's state is
    saved."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    early_stopping: EarlyStoppingState = field(default_factory=EarlyStoppingState)
    ema2: AveragedModel | None = None  # a second average, not used by evaluations
    task: Task | None = None  # whose own tensors are saved too
    sharded: Sharded | None = None  # how the model is divided among processes, where it is
    copied: threading.Event | None = None  # when a checkpoint in the background has its copy of weights and optimizer

    @property
    def best_model(self) -> nn.Module:
        """The weights to evaluate and to save: averaged where there is an average. Of a divided model they have to be
        gathered before, see `gather`."""
        if self.sharded is None:
            return self.learned_model
        assert self.sharded.copy is not None, "gather the weights first, on every process"
        return self.sharded.copy

    @property
    def learned_model(self) -> nn.Module:
        """The same as it is divided."""
        return self.model if self.ema is None else self.ema.module

    def wait_for_copy(self) -> None:
        """Before weights change: waits until a checkpoint of them is copied."""
        if self.copied is not None:
            self.copied.wait()

    def gather(self) -> None:
        """Makes `best_model` that of now, on every process; collective where the model is divided."""
        if self.sharded is not None:
            self.sharded.copy = None
            self.sharded.copy = self.sharded.gather(self.learned_model)

    def release(self) -> None:
        """Frees what `gather` has made."""
        if self.sharded is not None:
            self.sharded.copy = None

    @property
    def averages(self) -> dict[str, AveragedModel]:
        """The averages, by the name of their file."""
        return {name: average for name, average in (("ema", self.ema), ("ema2", self.ema2)) if average is not None}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors to save, by file."""
        parts = {"model": dict(self.model.state_dict()), "optimizer": flatten_optimizer(self.optimizer, self.model)}
        averages = {name: dict(average.module.state_dict()) for name, average in self.averages.items()}
        own = self.task.state() if self.task else {}
        return {**parts, **averages, **({"task": own} if own else {})}

    def numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "averaged": max([0, *(int(average.n_averaged) for average in self.averages.values())]),
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "early_stopping": self.early_stopping.numbers(),
        }

    def load(self, parts: dict[str, dict[str, Tensor]], numbers: dict[str, Any]) -> None:
        """Restores everything, bit for bit. Errors: `CheckpointError` where names or shapes differ."""
        self.load_strict(self.model, parts["model"])
        for name, average in self.averages.items():
            self.load_strict(average.module, parts.get(name, {}))
        unflatten_optimizer(self.optimizer, self.model, parts["optimizer"])
        if self.task:
            self.task.load_state(parts.get("task", {}))
        self.load_numbers(numbers)

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        """What is no tensor. Errors: `CheckpointError`."""
        for average in self.averages.values():
            average.n_averaged.fill_(numbers["averaged"])
        if self.scaler and numbers["scaler"]:
            try:
                self.scaler.load_state_dict(numbers["scaler"])
            except (RuntimeError, KeyError) as error:
                raise CheckpointError(f"the checkpoint has no valid gradient scaler ({error})", EDITED) from None
        self.step = int(numbers["step"])
        self.early_stopping = EarlyStoppingState(**numbers.get("early_stopping", {}))

    @staticmethod
    def load_strict(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Whole tensors into a model, whole or divided; every process has them."""
        own = model.state_dict()
        try:
            model.load_state_dict({name: divide(t, own[name]) if name in own else t for name, t in tensors.items()})
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:4]]
            raise CheckpointError(
                "the checkpoint does not fit the model: " + " ".join(lines)[:400], "was the recipe edited?"
            ) from None


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average whose decay rises to `decay`, so that the initial weights do not dominate short
    runs."""
    return build_average(model, lambda count: min(decay, (1 + count) / (10 + count)))


def build_average(model: nn.Module, decay_at: Callable[[int], float]) -> AveragedModel:
    """The same with a decay that is a function of the number of weights averaged before."""

    @torch.no_grad()
    def update(ema: Any, current: Any, count: Any) -> None:
        now = decay_at(int(count))
        torch._foreach_lerp_([local_part(t) for t in ema], [local_part(t) for t in current], 1 - now)

    return AveragedModel(model, multi_avg_fn=update)


def flatten_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's tensors under "parameter name|key"."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {f"{names[id(p)]}|{key}": value for p, kept in optimizer.state.items() for key, value in kept.items()}


def unflatten_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    # entries of empty parameters, which models no longer have
    empty = {name.partition("|")[0] for name, value in tensors.items() if not value.numel()} - set(parameters)
    for name, value in tensors.items():
        parameter, _, key = name.partition("|")
        if parameter in empty:
            continue
        if parameter not in parameters:
            raise CheckpointError(
                f"the checkpoint's optimiser has {parameter}, the model does not", "was the recipe edited?"
            )
        p = parameters[parameter]
        if value.ndim and value.shape != p.shape:
            what = f"the checkpoint's optimiser has {name} of shape {list(value.shape)}, not {list(p.shape)}"
            raise CheckpointError(what, EDITED)
        if value.shape != p.shape:
            optimizer.state[p][key] = value.to(p.device, copy=True)
            continue
        # fused updates need the Adam moments in the memory format of the weights
        optimizer.state[p][key] = torch.empty_like(p.detach(), dtype=value.dtype).copy_(divide(value, p))
