"""Writes the checkpoints of a run: whole by the first process, or in pieces by all; at once, or in a thread while
training goes on.

What a thread writes are copies of the state at the step that is saved. It makes them while the next gradients are
computed, and the next update of the weights waits for them; what a forward pass changes is copied before. The tensors
that the copies are made in are used again. Threads take part in no collective: they meet through the store of the
launcher.
"""

import errno
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.engine import checkpoint
from vitrail.engine.processes.pieces import Snapshot, shard_file, take_snapshot
from vitrail.engine.processes.world import World
from vitrail.engine.state import State
from vitrail.storage.atomic import begin_folder, finish_folder, write_entry
from vitrail.storage.json_text import from_json, to_json

Parts = dict[str, dict[str, Tensor]]
Rows = dict[str, dict[str, Any]]


class Outcome(NamedTuple):
    """Of one save. error: why it failed, None where it did not."""

    step: int
    path: Path
    error: Exception | None = None


class CheckpointWriter:
    """The checkpoints of one run, `keep` of them, in `folder`. in_background: those that need not be waited for."""

    def __init__(self, folder: Path, world: World, keep: int, in_background: bool):
        self.folder, self.world, self.keep = folder, world, keep
        self.in_background = in_background and (world.size == 1 or world.peers is not None)
        self.thread: threading.Thread | None = None
        self.outcomes: list[Outcome] = []
        self.copies: dict[str, Tensor] = {}
        self.saves = 0

    def save(self, state: State, wait: bool) -> None:
        """Saves a state; every process calls it. wait: return when it is on disk. What became of it is in `finished`,
        on the first process at least."""
        self.join()
        self.saves += 1
        background = self.in_background and not wait
        work = self.prepare_pieces(state, background) if state.sharded else self.prepare_whole(state, background)
        if not background:
            work()
            return
        self.thread = threading.Thread(target=work, name="checkpoint", daemon=False)
        self.thread.start()

    def finished(self) -> list[Outcome]:
        """What became of saves since the last call."""
        done, self.outcomes = self.outcomes, []
        return done

    def join(self) -> None:
        """Waits until nothing is being written."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    # whole checkpoints: the first process writes all

    def prepare_whole(self, state: State, background: bool) -> Callable[[], None]:
        if not self.world.is_first:
            return lambda: None
        numbers = state.numbers()
        path = self.folder / checkpoint.checkpoint_name(numbers["step"])
        held, copied = self.hold(state, state.tensors(), background)

        def work() -> None:
            try:
                parts = self.copy_parts(held, copied)
                with self.world.writing():
                    checkpoint.save(self.folder, parts, numbers, self.keep)
                self.outcomes.append(Outcome(numbers["step"], path))
            except Exception as error:
                self.outcomes.append(Outcome(numbers["step"], path, error))

        return work

    # checkpoints in pieces: every process writes its own, the first makes the folder

    def prepare_pieces(self, state: State, background: bool) -> Callable[[], None]:
        numbers, world = state.numbers(), self.world
        path = self.folder / checkpoint.checkpoint_name(numbers["step"])
        temporary, failure = world.on_rank_zero(lambda: self.begin(path))
        snapshot = take_snapshot(state.tensors(), world.is_first)
        numbers = {**numbers, "scalars": snapshot.scalars}
        held, copied = self.hold(state, {"": snapshot.pieces}, background)

        def work() -> None:
            own = snapshot._replace(pieces=self.copy_parts(held, copied).get("", {}))
            if temporary is None:
                self.outcomes.append(Outcome(numbers["step"], path, failure))
                return
            row = write_piece(temporary, world.rank, own)
            rows = self.exchange(row) if background else world.gather_objects(row)
            outcome = Outcome(numbers["step"], path)
            if world.is_first:
                outcome = self.finish(temporary, path, rows, numbers)
            if not background:
                error = world.on_rank_zero(lambda: outcome.error)
                outcome = outcome._replace(error=error)
            self.outcomes.append(outcome)

        return work

    def begin(self, path: Path) -> tuple[Path | None, Exception | None]:
        """A hidden folder for the pieces; None where the checkpoint is there already, or with the error."""
        try:
            self.folder.mkdir(exist_ok=True)
            return (None, None) if checkpoint.is_there(path) else (begin_folder(path), None)
        except OSError as error:
            return None, error

    def finish(self, temporary: Path, path: Path, rows: list[Rows | str], numbers: dict[str, Any]) -> Outcome:
        """Makes a checkpoint of the pieces, if all are there."""
        try:
            if failures := [row for row in rows if isinstance(row, str)]:
                raise OSError(errno.EIO, failures[0])
            with self.world.writing():
                files = {name: row for each in rows if isinstance(each, dict) for name, row in each.items()}
                files["state.json"] = write_entry(temporary / "state.json", to_json(numbers, sort_keys=True).encode())
                finish_folder(temporary, path, files)
                checkpoint.prune(path, self.keep)
            return Outcome(numbers["step"], path)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            return Outcome(numbers["step"], path, error)

    def exchange(self, row: Rows | str) -> list[Rows | str]:
        """The rows of all processes, on the first, which waits for them; the others only leave theirs."""
        peers = self.world.peers
        assert peers is not None
        store, place = peers.open_store("saved"), f"{self.saves}"
        store.set(f"{place}/{self.world.rank}", to_json(row))
        if not self.world.is_first:
            return []
        keys = [f"{place}/{rank}" for rank in range(self.world.size)]
        alone: float | None = None  # since when the main thread is gone
        while True:
            try:
                store.wait(keys, timedelta(seconds=1))
                rows = [from_json(text) for text in store.multi_get(keys)]
                for key in keys:  # the store is in the launcher's memory for as long as the run
                    store.delete_key(key)
                return rows
            except RuntimeError as error:  # DistStoreError: not yet
                if not threading.main_thread().is_alive() or peers.closed.is_set():
                    alone = time.monotonic() if alone is None else alone
                lost = alone is not None and time.monotonic() - alone > peers.limit
                if peers.finding or lost or "time" not in str(error).lower():
                    return [peers.finding or "another process did not write its part"]

    def hold(self, state: State, parts: Parts, background: bool) -> tuple[Parts, threading.Event | None]:
        """The tensors of a state, of which those that a forward pass changes are copied now, and the event that the
        next update waits for; as they are where nothing goes on meanwhile."""
        if not background:
            return parts, None
        state.copied = threading.Event()
        soon = {name for name, _ in state.model.named_buffers()}
        soon |= {f"model/{name}" for name in soon}
        held = {
            part: {name: t.clone() if name in soon else t.detach() for name, t in tensors.items()}
            for part, tensors in parts.items()
        }
        return held, state.copied

    def copy_parts(self, parts: Parts, copied: threading.Event | None) -> Parts:
        """The tensors on the CPU, as they are; the same ones without an event, which is set when all are copied."""
        if copied is None:
            return parts
        try:
            return self.copy_tensors(parts)
        finally:
            copied.set()

    def copy_tensors(self, parts: Parts) -> Parts:
        copies: Parts = {}
        for part, tensors in parts.items():
            for name, t in tensors.items():
                key = f"{part}/{name}"
                old = self.copies.get(key)
                if old is None or old.shape != t.shape or old.dtype != t.dtype or old.stride() != t.stride():
                    old = self.copies[key] = torch.empty_like(t, device="cpu", pin_memory=t.is_cuda)
                copies.setdefault(part, {})[name] = old.copy_(t.detach(), non_blocking=True)
        if any(t.is_cuda for tensors in parts.values() for t in tensors.values()):
            torch.cuda.synchronize()
        return copies


def write_piece(temporary: Path, rank: int, snapshot: Snapshot) -> Rows | str:
    """Writes what this process holds: the row of its file, none where it holds nothing of its own, or why it failed."""
    if not snapshot.pieces:
        return {}
    try:
        return {shard_file(rank): write_entry(temporary / shard_file(rank), snapshot.stream())}
    except Exception as error:
        return f"process {rank}: {describe_failure(error)}"


def describe_failure(error: Exception) -> str:
    """Why, in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {str(error)[:200]}"
