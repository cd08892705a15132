"""How long training stands still for a checkpoint that is written in the background, relative to one that is waited
for; and the most memory that saving takes, in the largest tensor of the state.

    OMP_NUM_THREADS=1 python benchmarks/stall.py [--model vit/base] [--rounds 5] [--out FOLDER]

A whole state (weights, AdamW's two tensors, one average) is saved in turns each way into FOLDER, by default the
system's for temporary files. The ratio is of the least times: what somebody else's work makes longer says nothing. The
first save in the background is not counted, since it also makes the copy's memory.
"""

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path

import torch
from history import append

import vitrail
from vitrail.engine import checkpoint
from vitrail.engine.optim import OptimizerSettings, build_optimizer, build_parameter_groups
from vitrail.engine.processes.world import single_process
from vitrail.engine.processes.writer import CheckpointWriter
from vitrail.engine.state import State, build_ema

SOONER = 0.05  # the mark
COMPUTING = 0.5  # seconds of a step that change no weights: a batch of a few images of these models on a CPU


def build_state(name: str) -> State:
    """The state of a run after one step; nothing is computed."""
    model = vitrail.backbone(name)
    optimizer = build_optimizer("adamw", build_parameter_groups(model, (), 0.05), (), OptimizerSettings())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return State(model, optimizer, build_ema(model, 0.999))


def time_save(writer: CheckpointWriter, state: State, wait: bool) -> float:
    """Seconds in which training stands still: in the call, and before the next update, which comes after `COMPUTING`
    seconds of forward and backward pass."""
    state.step += 1
    start = time.perf_counter()
    writer.save(state, wait)
    spent = time.perf_counter() - start
    time.sleep(0 if wait else COMPUTING)
    start = time.perf_counter()
    state.wait_for_copy()
    spent += time.perf_counter() - start
    writer.join()
    for outcome in writer.finished():
        if outcome.error is not None:
            raise outcome.error
    return spent


def measure_memory(state: State, folder: Path) -> tuple[int, int]:
    """The most bytes that Python allocates while a checkpoint is written, and those of the largest tensor."""
    largest = max(t.numel() * t.element_size() for part in state.tensors().values() for t in part.values())
    state.step += 1
    tracemalloc.start()
    checkpoint.save(folder, state.tensors(), state.numbers())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit/base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    state = build_state(given.model)
    size = sum(t.numel() * t.element_size() for part in state.tensors().values() for t in part.values())
    with tempfile.TemporaryDirectory(dir=given.out) as place:
        folder = Path(place) / "checkpoints"
        writer = CheckpointWriter(folder, single_process(torch.device("cpu")), 2, in_background=True)
        time_save(writer, state, wait=False)
        times = {wait: [time_save(writer, state, wait)] for wait in (True, False)}
        for _ in range(given.rounds - 1):
            for wait, spent in times.items():
                spent.append(time_save(writer, state, wait))
        peak, largest = measure_memory(state, folder)
    ratio = min(times[False]) / min(times[True])
    figures = {"bytes": size, "ratio": ratio, "peak": peak, "largest": largest}
    print(f"{given.model}: {size / 1e9:.2f} GB of state")
    print(f"training stands still for {ratio:.1%} of a save that is waited for (mark {SOONER:.0%})")
    print(f"Python allocates at most {peak / 1e6:.1f} MB meanwhile; the largest tensor has {largest / 1e6:.1f}")
    append("stall", figures, vars(given))


if __name__ == "__main__":
    main()
