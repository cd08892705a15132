"""The state of a run: the contents of a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vitrail.contracts import Task
from vitrail.engine.early_stopping import EarlyStoppingState
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

    @property
    def best_model(self) -> nn.Module:
        """The weights to evaluate and to save: averaged where there is an average."""
        return self.model if self.ema is None else self.ema.module

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
            average.n_averaged.fill_(numbers["averaged"])
        if self.scaler and numbers["scaler"]:
            try:
                self.scaler.load_state_dict(numbers["scaler"])
            except (RuntimeError, KeyError) as error:
                raise CheckpointError(f"the checkpoint has no valid gradient scaler ({error})", EDITED) from None
        unflatten_optimizer(self.optimizer, self.model, parts["optimizer"])
        if self.task:
            self.task.load_state(parts.get("task", {}))
        self.step = int(numbers["step"])
        self.early_stopping = EarlyStoppingState(**numbers.get("early_stopping", {}))

    @staticmethod
    def load_strict(model: nn.Module, tensors: dict[str, Tensor]) -> None:
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:4]]
            raise CheckpointError(
                "the checkpoint does not fit the model: " + " ".join(lines)[:400], "was the recipe edited?"
            ) from None


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average whose decay rises to `decay`, so that the initial weights do not dominate short
    runs."""

    @torch.no_grad()
    def update(ema: Any, current: Any, count: Any) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(ema, current, 1 - now)

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
        # fused updates need the Adam moments in the memory format of the weights
        like = p.detach() if value.shape == p.shape else value
        optimizer.state[p][key] = torch.empty_like(like, dtype=value.dtype, device=p.device).copy_(value)
