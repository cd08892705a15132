"""One GPU in at most eight minutes: how fast our models train and infer against timm's and transformers', how much of
the measured matrix rate they reach, and whether a model learns.

    python benchmarks/gpu.py [--seconds 480] [--out gpu.jsonl] [--parts train peers infer attention real]
    python benchmarks/gpu.py --device cpu --miniature     # minutes become seconds; speeds mean nothing

Nothing is downloaded. Every row is written as it ends, so that what ran is kept if the time is over; a row has a budget
of its own, and what did not run is written as skipped. Rows in the order of what matters:

    matmul      the bf16 matrix rate that everything is measured by
    train       images a second and MFU of a training step at 224 pixels in bf16 with AdamW: compiled whole, then eager;
                graph breaks (an error), graphs after the second step (0)
    peers       the same of timm and transformers, where they can be imported, in the same run
    infer       the same of inference
    attention   neighbourhood attention by FlexAttention against the masked kernel
    real        a training of three minutes on images that are held on the device: accuracy on the test images

MFU counts the multiply-adds of the model, three times for a training step, by the rate of `matmul`.
"""

import argparse
import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from history import append
from torch import Tensor, nn

import vitrail
from vitrail.analysis.cost import cost
from vitrail.datasets import mini
from vitrail.layers.neighbourhood import VisiblePairs

PARTS = ("train", "peers", "infer", "attention", "real")
REAL_S = 180.0
ROW_S = 45.0  # of a row, compiling included


class Entry(NamedTuple):
    """A model at its batch size, and its names in timm and transformers, "" where they have none."""

    name: str
    batch: int
    timm: str = ""
    transformers: str = ""


ENTRIES = (
    Entry("vit/base", 256, "vit_base_patch16_224", "ViTConfig 768 12 12 3072"),
    Entry("vit/small", 256, "vit_small_patch16_224", "ViTConfig 384 12 6 1536"),
    Entry("dit/base_2", 128),
    Entry("swin/tiny", 256, "swin_tiny_patch4_window7_224"),
    Entry("vit/large", 128, "vit_large_patch16_224"),
    Entry("pvt_v2/b2", 256, "pvt_v2_b2"),
    Entry("efficientvit/b1", 512, "efficientvit_b1"),
)
SMALLEST = (Entry("vit/nano", 4, "vit_tiny_patch16_224"), Entry("dit/nano", 4))


class Late(Exception):
    """A row is over its budget."""


class Report:
    """Rows of JSON, each written as it ends, and the time that is left."""

    def __init__(self, file: Path, seconds: float):
        self.file, self.ends = file, time.monotonic() + seconds
        self.rows: list[dict[str, Any]] = []

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def write(self, **row: Any) -> None:
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def figures(self) -> dict[str, dict[str, float]]:
        """The numbers of each row."""
        numbers = int | float
        return {one["row"]: {k: v for k, v in one.items() if isinstance(v, numbers)} for one in self.rows}

    def run(self, what: str, work: Callable[[], dict[str, Any]], budget: float = ROW_S, keep: float = 0.0) -> None:
        """The row of some work: its figures, why it failed, or that there is no time for it. keep: seconds that must be
        left for what follows."""
        seconds = min(budget, self.left - keep)
        if seconds < min(5.0, budget):
            return self.write(row=what, skipped="no time left")
        began = time.monotonic()
        try:
            with time_limit(seconds):
                figures = work()
        except Late:
            figures = {"skipped": f"longer than {seconds:.0f} s"}
        except Exception as error:  # one row must not lose the others
            figures = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self.write(row=what, **figures, seconds=round(time.monotonic() - began, 1))
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `Late` in the main thread after so many seconds, where the system has alarms."""
    if "SIGALRM" not in vars(signal):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def rate(step: Callable[[], Any], device: str, seconds: float, warm: int = 3) -> float:
    """Calls a second, after some to warm up: as many as take about so many seconds, timed together."""
    for _ in range(warm):
        step()
    finish(device)
    start = time.perf_counter()
    step()
    finish(device)
    count = max(2, round(seconds / max(1e-6, time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        step()
    finish(device)
    return count / (time.perf_counter() - start)


def matmul_rate(device: str, side: int) -> float:
    """TFLOP/s of a bf16 matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return rate(lambda: a @ b, device, 1.0 if device != "cpu" else 0.05) * 2 * side**3 / 1e12


class Bench:
    """The settings of all rows: the device, the matrix rate, how long a row is timed, the size of images."""

    def __init__(self, device: str, is_small: bool):
        self.device, self.size, self.seconds = device, 28 if is_small else 224, 0.02 if is_small else 2.0
        self.backend = "eager" if is_small else "inductor"
        self.tflops = 0.0

    def inputs(self, entry: Entry) -> tuple[tuple[Tensor, ...], Tensor]:
        """Random images, or noise with times and labels; and what is learned."""
        torch.manual_seed(0)
        if entry.name.startswith("dit"):
            channels, side = (4, 28) if entry.name != "dit/nano" else (3, 28)
            x = torch.randn(entry.batch, channels, side, side, device=self.device)
            t = torch.rand(entry.batch, device=self.device) * 900
            return (x, t, torch.randint(10, (entry.batch,), device=self.device)), x
        images = torch.randn(entry.batch, 3, self.size, self.size, device=self.device)
        return (images,), torch.randint(1000, (entry.batch,), device=self.device)

    def ours(self, entry: Entry) -> nn.Module:
        if entry.name.startswith("dit"):
            keys = {} if entry.name == "dit/nano" else {"size": (28, 28)}
            return vitrail.backbone(entry.name, **keys)
        return vitrail.create(entry.name, classes=1000, size=(self.size, self.size), channels=3)

    def compiled(self, model: nn.Module) -> Any:
        return torch.compile(model, fullgraph=True, backend=self.backend)

    def train(self, entry: Entry, model: nn.Module, is_compiled: bool) -> dict[str, Any]:
        """A training step in bf16."""
        inputs, target = self.inputs(entry)
        model = model.to(self.device).train()
        run = self.compiled(model) if is_compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, torch.bfloat16):
                out = run(*inputs)
                is_noise = target.ndim > 1
                loss = F.mse_loss(out[:, : target.shape[1]], target) if is_noise else F.cross_entropy(out, target)
            loss.backward()
            optimizer.step()

        return self.measure(entry, model, step, 3, is_compiled)

    def infer(self, entry: Entry, model: nn.Module, is_compiled: bool) -> dict[str, Any]:
        inputs, _ = self.inputs(entry)
        model = model.to(self.device).eval()
        run = self.compiled(model) if is_compiled else model

        def step() -> None:
            with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16):
                run(*inputs)

        return self.measure(entry, model, step, 1, is_compiled)

    def measure(
        self, entry: Entry, model: nn.Module, step: Callable[[], None], passes: int, is_compiled: bool
    ) -> dict[str, Any]:
        """Images a second, MFU, memory, and how often torch compiled after the second step."""
        counters = torch._dynamo.utils.counters
        counters.clear()
        step()
        step()
        graphs = counters["stats"]["unique_graphs"]
        images = rate(step, self.device, self.seconds, warm=1) * entry.batch
        found: dict[str, Any] = {"images_per_s": round(images, 1), "batch": entry.batch}
        if self.tflops and (macs := count_macs(model)):
            found["mfu"] = round(2 * macs * passes * images / (self.tflops * 1e12), 4)
        if is_compiled:
            found["graph_breaks"] = sum(counters["graph_break"].values())
            found["graphs"], found["recompiles"] = graphs, counters["stats"]["unique_graphs"] - graphs
        if self.device != "cpu":
            found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        return found


def count_macs(model: nn.Module) -> int:
    """Multiply-adds of one image; 0 of a model of another library."""
    try:
        return cost(model).macs
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return 0


def peers(entry: Entry, size: int) -> dict[str, Callable[[], nn.Module]]:
    """The same model in other libraries, where they can be imported."""
    found: dict[str, Callable[[], nn.Module]] = {}
    with contextlib.suppress(ImportError):
        import timm

        if entry.timm:
            keys = {"img_size": size} if entry.timm.startswith("vit") else {}
            found["timm"] = lambda: timm.create_model(entry.timm, num_classes=1000, **keys)
    with contextlib.suppress(ImportError):
        from transformers import ViTConfig, ViTModel

        if entry.transformers:
            width, depth, heads, hidden = map(int, entry.transformers.split()[1:])
            config = ViTConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=size,
                               intermediate_size=hidden, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                               attn_implementation="sdpa")  # fmt: skip
            found["transformers"] = lambda: Summary(ViTModel(config, add_pooling_layer=False))
    return found


class Summary(nn.Module):
    """The class token of transformers' model through a linear layer, as logits."""

    def __init__(self, model: Any):
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.hidden_size, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.model(images).last_hidden_state[:, 0])


def attention(bench: Bench, side: int, radius: int) -> dict[str, Any]:
    """Neighbourhood attention, forward: FlexAttention, which skips what nobody sees, over the masked kernel."""
    pairs = VisiblePairs(radius, (side, side), 1)
    kind = torch.bfloat16 if bench.device != "cpu" else torch.float32
    q, k, v = (torch.randn(2, 4, side * side + 1, 64, device=bench.device, dtype=kind) for _ in range(3))
    bias = pairs.bias(q)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on a processor it has no kernel
        apart = (pairs.attend(q, k, v) - F.scaled_dot_product_attention(q, k, v, bias)).abs().max().item()
        sparse = rate(lambda: pairs.attend(q, k, v), bench.device, bench.seconds / 4)
        masked = rate(lambda: F.scaled_dot_product_attention(q, k, v, bias), bench.device, bench.seconds / 4)
    share = pairs.count_pairs() / (side * side + 1) ** 2
    return {"flex_over_masked": round(sparse / masked, 2), "visible": round(share, 4), "difference": apart}


def real(bench: Bench, seconds: float, batch: int) -> dict[str, Any]:
    """Trains on the bundled images for so long and says how many of the test images it gets right. Shifts and flips are
    drawn on the device; the learning rate falls with the time, so this row alone depends on the clock."""
    data, device = mini.build(mini.Config()), bench.device
    images, labels = on_device(data.splits["train"], device)
    test, wanted = on_device(data.splits["test"], device)
    torch.manual_seed(0)
    keys = {"patch": 4, "size": (28, 28), "channels": 1, "drop_path": 0.1}
    model = vitrail.create("vit/small" if device != "cpu" else "vit/nano", classes=10, **keys).to(device)
    run = bench.compiled(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    began, steps = time.monotonic(), 0
    while (done := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (steps + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        chosen = torch.randint(len(images), (batch,), device=device)
        shift = [int(n) for n in torch.randint(-2, 3, (2,))]
        x = images[chosen].roll(shift, (2, 3))
        x = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, x.flip(3), x)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(run(x), labels[chosen], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        steps += 1
    finish(device)
    spent = time.monotonic() - began
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in test.split(500)])
    right = (found == wanted).float().mean().item()
    return {"accuracy": round(right, 4), "steps": steps, "images_per_s": round(steps * batch / spent, 1),
            "loss": round(loss.item(), 4)}  # fmt: skip


def on_device(split: Any, device: str) -> tuple[Tensor, Tensor]:
    """All images of a split [N 1 28 28] in [-1, 1], and their labels."""
    pixels = torch.stack([torch.from_numpy(split.read(i)) for i in range(len(split))])
    return pixels.permute(0, 3, 1, 2).to(device).float() / 127.5 - 1, torch.from_numpy(split.labels).to(device)


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--miniature", action="store_true")
    given = parser.parse_args(words)
    small = given.miniature
    bench, report = Bench(given.device, small), Report(given.out, given.seconds)
    name = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
    report.write(row="machine", device=name, torch=torch.__version__, vitrail=vitrail.__version__)
    bench.tflops = matmul_rate(given.device, 256 if small else 8192)
    report.write(row="matmul", tflops=round(bench.tflops, 2))
    entries = SMALLEST if small else ENTRIES
    real_s = 0.5 if small else REAL_S
    keep = real_s + 60 if "real" in given.parts and not small else 0.0
    for part, entry, who, make, is_compiled in rows(given.parts, entries, bench):
        measure = bench.infer if part == "infer" else bench.train
        what = f"{part} {entry.name} {who} {'compiled' if is_compiled else 'eager'}"
        report.run(what, lambda e=entry, m=make, c=is_compiled, f=measure: f(e, m(), c), keep=keep)
    if "attention" in given.parts:
        side, radius = (6, 1) if small else (56, 3)
        report.run("attention", lambda: attention(bench, side, radius), keep=keep)
    if "real" in given.parts:
        batch = 64 if small else 1024
        report.run("real", lambda: real(bench, min(real_s, report.left - 20), batch), budget=real_s + 60)
    append("gpu", report.figures(), {"device": name, "miniature": small})
    return report.rows


def rows(parts: list[str], entries: tuple[Entry, ...], bench: Bench) -> Iterator[tuple[Any, ...]]:
    """(part, entry, who, how the model is made, whether it is compiled), what matters most first."""
    for is_compiled in (True, False):
        for entry in entries:
            for part in ("train", "peers", "infer"):
                if part not in parts:
                    continue
                if part != "peers":
                    yield part, entry, "ours", lambda e=entry: bench.ours(e), is_compiled
                    continue
                for who, make in peers(entry, bench.size).items():
                    yield "train", entry, who, make, is_compiled


if __name__ == "__main__":
    main()
