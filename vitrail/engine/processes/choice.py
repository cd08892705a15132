"""How a model is divided among the processes of a run: a copy in each (DDP), a part in each (FSDP), or a part in each
of a machine and a copy on every machine (HSDP). Decided by formulas, never by a measurement: the same command decides
the same."""

from typing import NamedTuple

from vitrail.engine.processes.formulas import activation_bytes, state_bytes
from vitrail.errors import UsageError

DDP, FSDP, HSDP = "ddp", "fsdp", "hsdp"
HALF = 0.5  # of the memory: where the state needs less, smaller micro-batches make room for a copy in each process


class Needs(NamedTuple):
    """What the decision depends on. per_machine: processes on one machine; images: of a micro-batch of a process;
    values: numbers in the outputs of all blocks for an image; budget: bytes that a process may use, 0 where unknown."""

    processes: int
    per_machine: int
    parameters: int
    averages: int
    images: int
    values: int
    checkpointing: str
    number_bytes: int
    budget: int
    can_shrink: bool  # whether micro-batches may be made smaller

    def state(self, shards: int) -> int:
        return state_bytes(self.parameters, shards, self.averages)

    def activations(self) -> int:
        return self.images * activation_bytes(self.values, self.checkpointing, self.number_bytes)

    def fits(self, shards: int) -> bool:
        state = self.state(shards)
        return state + self.activations() <= self.budget or (self.can_shrink and state <= HALF * self.budget)


class ParallelChoice(NamedTuple):
    """name: "ddp", "fsdp" or "hsdp"; shards: the processes that share one copy of the model; reason: for people."""

    name: str
    shards: int
    reason: str


ONE_PROCESS = ParallelChoice(DDP, 1, "")


def choose_parallel(wanted: str, needs: Needs) -> ParallelChoice:
    """Errors: `UsageError` for HSDP of processes that are not spread evenly over several machines."""
    if needs.processes == 1:
        return ONE_PROCESS
    if wanted == HSDP:
        check_machines(needs)
    if wanted != "auto":
        return ParallelChoice(wanted, count_shards(wanted, needs), f"as set; {describe(needs, wanted)}")
    if not needs.budget or needs.fits(1):
        return ParallelChoice(DDP, 1, describe(needs, DDP))
    several = needs.processes > needs.per_machine > 1 and needs.processes % needs.per_machine == 0
    name = HSDP if several and needs.fits(needs.per_machine) else FSDP
    return ParallelChoice(name, count_shards(name, needs), f"{describe(needs, DDP)}; {describe(needs, name)}")


def check_machines(needs: Needs) -> None:
    if needs.processes % needs.per_machine or needs.processes == needs.per_machine or needs.per_machine == 1:
        what = f"hsdp divides a model within a machine, and of {needs.processes} processes {needs.per_machine} are here"
        raise UsageError(what, "--parallel fsdp, or start as many processes on each of several machines")


def count_shards(name: str, needs: Needs) -> int:
    return {DDP: 1, FSDP: needs.processes, HSDP: needs.per_machine}[name]


def describe(needs: Needs, name: str) -> str:
    """The formula with its numbers."""
    shards = count_shards(name, needs)
    divided = f" / {shards}" if shards > 1 else ""
    text = f"{name} needs 16 B x {needs.parameters / 1e6:,.1f} M{divided}"
    if needs.averages:
        text = text.replace("16 B", f"{16 + 4 * needs.averages} B")
    text += f" = {show(needs.state(shards))} and {show(needs.activations())} for {needs.images} images"
    return text + (f", of {show(needs.budget)}" if needs.budget else "")


def show(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
