"""What a start costs as the number of images grows: processor time and memory from the imports to the first step, cold
and with the index of the last start, and what a worker is sent.

python benchmarks/scale.py 1000 10000 100000            real files in a temporary folder
python benchmarks/scale.py --simulate 1300000           a generated listing, no files
python benchmarks/scale.py ... --rows FILE              adds its rows to those in FILE
python benchmarks/scale.py --rows FILE --figure docs/scale-start.svg    draws the growth

Each start is a process of its own. The processor time is that of the process and its children, without the imports.
"""

import argparse
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from history import append
from PIL import Image

CLASSES, DISTINCT, SIDE = 1000, 200, 32


def image_bytes(number: int) -> bytes:
    """A small JPEG, different for every number."""
    buffer, pixels = io.BytesIO(), np.random.default_rng(number % DISTINCT).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=80)
    data, comment = buffer.getvalue(), b"%012d" % number
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def classes_of(count: int) -> int:
    return min(CLASSES, max(2, count // 20))


def name_of(number: int, classes: int) -> str:
    return f"class{number % classes:04d}/img_{number:07d}.jpg"


def write_images(folder: Path, count: int) -> None:
    base, classes = [image_bytes(i) for i in range(DISTINCT)], classes_of(count)
    for i in range(classes):
        (folder / f"class{i:04d}").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        own = base[i % DISTINCT]
        (folder / name_of(i, classes)).write_bytes(own[:6] + b"%012d" % i + own[18:])
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (1e9, 1e9))  # as data that was not written a moment ago


def simulate(count: int) -> list[Any]:
    """Patches under which a folder has `count` images whose names, sizes and times are generated."""
    from vitrail.assembly.opening import opened
    from vitrail.data import files
    from vitrail.data.dataset import Entry
    from vitrail.datasets import imagefolder

    def list_images(root: Path, below: str = "", follow: bool = False) -> files.FolderContents:
        entries = sorted(Entry(name_of(i, classes_of(count)), 100_000 + i % 977, 10**18 + i) for i in range(count))
        return files.FolderContents(entries)

    def folders(folder: Path, prefix: str, links: Any) -> list[str]:
        return [f"class{i:04d}" for i in range(classes_of(count))] if not prefix else []

    def encoded(self: files.FileReader, index: int) -> bytes:
        return image_bytes(int(self.names[index][-11:-4]))

    def read(self: files.FileReader, index: int) -> np.ndarray:
        return files.decode(encoded(self, index), self.channels)

    return [
        mock.patch.object(imagefolder, "list_images", list_images),
        mock.patch.object(imagefolder, "_folders", folders),
        mock.patch.object(imagefolder, "detect_channels", return_value=3),
        mock.patch.object(opened, "is_unchanged", return_value=True),  # there are no files to ask for
        mock.patch.object(files.FileReader, "encoded", encoded),
        mock.patch.object(files.FileReader, "__call__", read),
    ]


def start(folder: str, simulated: int) -> dict[str, Any]:
    """One start, to the end of its first step; runs in a process of its own."""
    import torch
    import torchvision.transforms.v2  # noqa: F401

    from vitrail import catalog
    from vitrail.engine.processes.world import single_process
    from vitrail.engine.signals import StopSignal
    from vitrail.engine.train import train_steps
    from vitrail.recipe import Recipe, override
    from vitrail.training import create, loop  # noqa: F401
    from vitrail.training.steps import loop_settings, remaining_batches

    list(catalog.list_layouts("/nowhere"))
    for name in ("tasks/classification", "models/vit"):
        catalog.load_module(*name.split("/"))
    recipe = Recipe()
    for section, keys in (
        ("data", {"path": folder}),
        ("model", {"name": "vit/nano"}),
        ("input", {"size": [SIDE, SIDE]}),
        ("train", {"steps": 1, "batch_size": 16, "eval_every": 0, "precision": "fp32"}),
        ("runtime", {"workers": 0}),
    ):
        recipe = override(recipe, section, keys)
    patches = simulate(simulated) if simulated else []
    for patch in patches:
        patch.start()
    before, memory = time.process_time(), peak_mb()
    with tempfile.TemporaryDirectory() as out:
        session, prepared = create.create_session(recipe, Path(out) / "run", single_process(torch.device("cpu")))
        opened = time.process_time()
        batches = remaining_batches(session)
        next(iter(train_steps(session.state, session.bundle.task, batches, loop_settings(session, StopSignal()))))
    split = session.dataset.splits["train"]
    import pickle

    return {
        "images": sum(len(one) for one in session.dataset.splits.values()),
        "seconds": round(time.process_time() - before, 2),
        "step": round(time.process_time() - opened, 2),
        "memory_mb": peak_mb() - memory,
        "sent_mb": round(len(pickle.dumps(split)) / 1e6, 2),
        "read": prepared.survey.read,
    }


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(folder: Path, simulated: int) -> list[dict[str, Any]]:
    """A cold and a warm start."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("cold", "warm"):
            words = [sys.executable, __file__, "--start", str(folder), "--simulate", str(simulated)]
            env = {**os.environ, "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(words, env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append({"start": kind, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of processor time and MB over the number of images, on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, key, label in ((left, "seconds", "processor seconds"), (right, "memory_mb", "MB over the imports")):
        for kind, style in (("cold", "o-"), ("warm", "s--")):
            own = sorted((row["images"], max(row[key], 0.1)) for row in rows if row["start"] == kind)
            axis.plot(*zip(*own, strict=True), style, label=kind)
        axis.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
        axis.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, help="numbers of real files")
    parser.add_argument("--simulate", nargs="*", type=int, default=[], help="numbers of generated names")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--rows", type=Path, help="a file of rows, a line of JSON each")
    parser.add_argument("--work", type=Path, help="the folder for the files, by default a temporary one")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start:
        print(json.dumps(start(given.start, given.simulate[0])))
        return
    rows = []
    for count in given.counts:
        folder = Path(tempfile.mkdtemp(dir=given.work))
        try:
            write_images(folder / "data", count)
            rows += measure(folder / "data", 0)
        finally:
            shutil.rmtree(folder)
    for count in given.simulate:
        with tempfile.TemporaryDirectory() as folder:
            os.utime(folder, (1e9, 1e9))
            rows += measure(Path(folder), count)
    figures = {f"{row['images']} {row['start']}": {k: row[k] for k in ("seconds", "memory_mb")} for row in rows}
    append("scale", figures, {"simulated": given.simulate})
    if given.rows:
        before = given.rows.read_text(encoding="utf-8").splitlines() if given.rows.exists() else []
        rows = [*map(json.loads, before), *rows]
        given.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if given.figure:
        draw(rows, given.figure)


if __name__ == "__main__":
    main()
