"""What looking costs: one 224 x 224 image through ViT-B/16 with all 12 layers looked at, against a plain forward pass.

    python benchmarks/look.py [--model vit/base] [--rounds 12] [--heads mean]

Passes alternate; the ratio is of the medians of processor time, on one thread, since other work on the machine changes
the clock and not the work. Memory: bytes of the weights that are kept, and the most bytes that torch's allocator of the
processor held more than before, as torch's profiler counts them for one pass of each kind.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from history import append
from torch.profiler import ProfilerActivity, profile

import vitrail

BAR = 2.0


def processor(call: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    call()
    return time.process_time() - start


def peak(call: Callable[[], object]) -> int:
    """The most bytes held during a call above what was held before it, from the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = call()
    held = most = 0
    for event in sorted(
        (e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit/base")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--heads", choices=("mean", "min", "max"), default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = vitrail.create(given.model).eval()
    image = torch.randn(1, 3, *model.backbone.config.size)

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return model(image)

    def looking() -> list:
        return vitrail.attention(model, image, heads=given.heads)

    times: dict[str, list[float]] = {"plain": [], "looking": []}
    plain()
    looks = looking()
    for i in range(given.rounds):
        for name, call in sorted({"plain": plain, "looking": looking}.items(), reverse=bool(i % 2)):
            times[name].append(processor(call))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["looking"] / medians["plain"]
    found = {
        "model": given.model, "layers": len(looks), "heads": given.heads or "all", "rounds": given.rounds,
        "plain_s": round(medians["plain"], 4), "looking_s": round(medians["looking"], 4), "ratio": round(ratio, 3),
        "ratio_of_the_best": round(min(times["looking"]) / min(times["plain"]), 3), "bar": BAR, "within": ratio <= BAR,
        "kept_bytes": sum(one.parts.numel() * one.parts.element_size() for one in looks),
        "peak_plain_bytes": peak(plain), "peak_looking_bytes": peak(looking),
    }  # fmt: skip
    print(json.dumps(found))
    append("look", {key: value for key, value in found.items() if key not in vars(given)}, vars(given))


if __name__ == "__main__":
    main()
