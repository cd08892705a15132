"""How memory and time of an inference grow with the image: measured, where `vitrail cost` counts.

    OMP_NUM_THREADS=1 python benchmarks/growth.py [--models vit/tiny,swin/tiny] [--sizes 512,1024,2048]

One image, fp32, each size in a process of its own: the peak of its memory above what the model took, in bytes a pixel,
and the processor time of the forward pass. Only Linux counts such a peak.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from history import append

import vitrail

MODELS = "vit/tiny,swin/tiny,swin_v2/tiny_w8,pvt_v2/b2_li,efficientvit/b0,mobilevit/xxs,resnet/18"


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


@torch.inference_mode()
def measure(name: str, size: int) -> tuple[int, float]:
    """Bytes and seconds of one image."""
    model = vitrail.create(name, classes=10, size=(size, size)).eval()
    images = torch.randn(1, 3, size, size)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.process_time()
    model(images)
    return status("VmHWM") - before, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--sizes", default="512,1024,2048")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a process for one size
    given = parser.parse_args()
    if given.one:
        print(*measure(given.one[0], int(given.one[1])))
        return
    sizes = [int(size) for size in given.sizes.split(",")]
    print(
        f"| model | {' | '.join(f'{s}: bytes a pixel' for s in sizes)} | last / one before | time, last / one before |"
    )
    print("|---" * (len(sizes) + 3) + "|")
    figures = {}
    for name in given.models.split(","):
        rows = []
        for size in sizes:
            words = [sys.executable, __file__, "--one", name, str(size)]
            bytes_, seconds = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
            rows.append((int(bytes_) / size**2, float(seconds)))
        grown, longer = rows[-1][0] / rows[-2][0], rows[-1][1] / rows[-2][1]
        print(f"| {name} | {' | '.join(f'{b:.0f}' for b, _ in rows)} | {grown:.2f} | {longer:.1f} |", flush=True)
        figures[name] = {"bytes a pixel": rows[-1][0], "memory": grown, "time": longer}
    append("growth", figures, {"sizes": given.sizes})


if __name__ == "__main__":
    main()
