"""Whether vitrail still computes what it once did, to the bit: short trainings, compared with recorded hashes.

    python benchmarks/same_results.py                     # compares with same_results.json; exit code 1 if one differs
    python benchmarks/same_results.py --record            # writes it, after a change that is meant to change results
    python benchmarks/same_results.py --only resnet swin  # some runs, and those that they begin from

The runs, of every task, are listed in same_results.toml. Each is the real command in a process of its own, 20 steps at
fp32 on one thread of the CPU; all together take about three minutes of one core. Hashed (SHA-256) are

    weights        the final weights: name, dtype, shape and bytes of each tensor that has elements
    values         the same without the names: alike where only a name has changed
    state          the tensors of the last checkpoint, the optimizer's moments among them, without the names
    log            loss and its terms, lr and norm of the gradient at every step
    evaluations    the metrics of every evaluation
    predictions    the arrays of evaluation/*.npz
    images         the pixels of evaluation/*.png: label maps, samples
    outputs        what `vitrail predict --json` prints about 8 images
    output_images  the pixels of the images that `vitrail predict` and `vitrail sample` write

The names of files, columns and metrics do not matter, nor do times and metadata: where things are only renamed, nothing
but `weights` can differ. Torch and its libraries are asked for code that is alike on all processors, but another
processor or version may round differently; the script says where they are not those of the record.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from history import append
from PIL import Image

RECORD = Path(__file__).with_suffix(".json")
TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
RUNS, PHRASES, USES = TABLE["runs"], TABLE["phrases"], TABLE["uses"]
TIMES = re.compile(r".*_s|data_wait")  # columns of the log that a clock has written
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
Hashes = dict[str, str]


class CommandError(Exception):
    """A command did not do what it should."""


class RunsFolder:
    """A temporary folder, and the command that is run in it."""

    def __init__(self, folder: Path, command: list[str]):
        self.folder, self.command = folder, command
        self.environment = {**os.environ, **ENVIRONMENT}
        draw_images(folder / "images")

    def start(self, words: str) -> subprocess.Popen[str]:
        line, pipe = [*self.command, *words.split()], subprocess.PIPE
        return subprocess.Popen(line, cwd=self.folder, env=self.environment, text=True, stdout=pipe, stderr=pipe)

    def run(self, words: str) -> str:
        """What the command prints. Errors: `CommandError`."""
        process = self.start(words)
        output, errors = process.communicate()
        if process.returncode:
            raise CommandError(f"vitrail {words}\nexit code {process.returncode}: {errors.strip() or output.strip()}")
        return output

    def interrupt(self, words: str, run: str, step: int) -> None:
        """Starts a training and stops it with SIGTERM after a step. Errors: `CommandError` where it came too late."""
        process = self.start(words)
        while process.poll() is None and last_step(self.folder / run) < step:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate()[1]
        if process.returncode != 128 + signal.SIGTERM:
            what = f"was to stop near step {step}, and came to {last_step(self.folder / run)}"
            raise CommandError(f"vitrail {words}\n{what}, exit code {process.returncode}: {errors.strip()}")


def train(runs_folder: RunsFolder, name: str) -> Hashes:
    """Trains a run of the table and uses what comes out of it; returns its hashes. Errors: `CommandError`."""
    run = RUNS[name]
    words = f"train {PHRASES['common']} {run['words'].format(**PHRASES)} --out {name}"
    if "interrupt_at" in run:
        runs_folder.interrupt(words, name, run["interrupt_at"])
        runs_folder.run(f"train --resume {name} --device cpu")
    else:
        runs_folder.run(words)
    hashes = hash_run(runs_folder.folder / name)
    if "use" in run:
        command = USES[run["use"]].format(run=name)
        output = runs_folder.run(command)
        rows = [json.loads(line) for line in output.splitlines()] if "--json" in command else []
        images = (runs_folder.folder / f"{name}-outputs").rglob("*.png")
        hashes["outputs"] = combine(combine(leaves(row)) for row in rows)
        hashes["output_images"] = combine(hash_image(path) for path in images)
    return {key: value for key, value in hashes.items() if value}


def hash_run(folder: Path) -> Hashes:
    """The hashes of a run's directory, "" where there is nothing of a kind; the losses, to see where two part."""
    weights = [list(tensors(path)) for path in folder.glob("*.safetensors")]
    rows = list(log_rows(folder))
    steps, evaluations = ([row for row in rows if ("lr" in row) is is_step] for is_step in (True, False))
    tables = [np.load(path) for path in folder.rglob("*.npz")]
    arrays = (table[key] for table in tables for key in table)
    return {
        "weights": combine(combine(name + sha for name, sha in file) for file in weights),
        "values": combine(combine(sha for _, sha in file) for file in weights),
        "state": combine({sha for path in newest_checkpoint(folder) for _, sha in tensors(path)}),
        "log": combine((combine(leaves(row)) for row in steps), in_order=True),
        "evaluations": combine((combine(leaves(row)) for row in evaluations), in_order=True),
        "predictions": combine(hash_array(array) for array in arrays if array.dtype.kind != "U"),
        "images": combine(hash_image(path) for path in folder.rglob("*.png")),
        "losses": " ".join(f"{row['loss']:.9g}" for row in steps),
    }


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def combine(hashes: Iterable[str], in_order: bool = False) -> str:
    """One hash of many, whatever their order unless that matters; "" of none."""
    texts = list(hashes) if in_order else sorted(hashes)
    return digest("\n".join(texts).encode()) if texts else ""


def tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of each tensor with elements. A file is an 8-byte length, a header in JSON, and the bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, about in sorted(json.loads(data[8:start]).items()):
        if name != "__metadata__" and math.prod(about["shape"]):
            begin, end = about["data_offsets"]
            content = data[start + begin : start + end]
            yield name, digest(about["dtype"].encode(), str(about["shape"]).encode(), content)


def newest_checkpoint(folder: Path) -> list[Path]:
    """The tensor files in the checkpoint with the largest number in its name."""
    numbers = {path.parent: re.search(r"\d+$", path.parent.name) for path in folder.rglob("*/*.safetensors")}
    checkpoints = {path: int(number[0]) for path, number in numbers.items() if number}
    return list(max(checkpoints, key=checkpoints.__getitem__).glob("*.safetensors")) if checkpoints else []


def log_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The numbers in the rows of a run's log, but for those that a clock has written."""
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            if line.endswith("}"):  # the last line may not be whole while a run goes on
                row = json.loads(line)
                yield {key: row[key] for key in row if not TIMES.fullmatch(key) and not isinstance(row[key], str)}


def last_step(folder: Path) -> int:
    return max((row["step"] for row in log_rows(folder)), default=0)


def leaves(value: Any) -> Iterator[str]:
    """The numbers and texts in a JSON value, but for the names of files and of columns."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif not isinstance(value, str):
        yield str(value if value is None else float(value))
    elif not re.search(r"/|\.\w+$", value):
        yield value


def hash_array(array: np.ndarray) -> str:
    return digest(array.dtype.str.encode(), str(array.shape).encode(), array.tobytes())


def hash_image(path: Path) -> str:
    with Image.open(path) as image:
        return hash_array(np.asarray(image))


def draw_images(folder: Path) -> None:
    """Eight PNG files of blocks and noise, of several sizes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        blocks = random.integers(0, 256, (4 + number % 3, 5, 3)).repeat(9, axis=0).repeat(8, axis=1)
        pixels = np.clip(blocks + random.integers(-20, 21, blocks.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def about_machine() -> dict[str, str]:
    """What the results may depend on beside vitrail."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text() if info.is_file() else "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "processor": f"{names[0] if names else platform.processor()} ({platform.machine()}, {capability})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": Image.__version__,
    }


def commit() -> str:
    """The commit of the vitrail that Python imports, and whether the package has changed since."""
    find = [sys.executable, "-c", "import vitrail; print(vitrail.__path__[0])"]
    folder = subprocess.run(find, capture_output=True, text=True, cwd="/", check=True).stdout.strip()
    git = ["git", "-C", folder]
    sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    status = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True).stdout
    return f"{sha or 'unknown'}{' with changes' if status else ''}"


def with_needs(names: Iterable[str]) -> list[str]:
    """The runs and those that they begin from, in the order of the table."""
    needs = {RUNS[name].get("needs") for name in names}
    return [name for name in RUNS if name in needs.union(names)]


def difference(before: Hashes, after: Hashes) -> str:
    """What differs, and from which step on; "" where nothing does."""
    keys = [key for key in {**before, **after} if key != "losses" and before.get(key) != after.get(key)]
    names = [key if key in before and key in after else f"{key} ({'gone' if key in before else 'new'})" for key in keys]
    losses = zip(before.get("losses", "").split(), after.get("losses", "").split(), strict=False)
    steps = [step for step, (old, new) in enumerate(losses, 1) if old != new]
    return ", ".join(names) + (f"; the loss from step {steps[0]} on" if steps else "")


def train_all(names: list[str], command: list[str], before: dict[str, Hashes]) -> Iterator[tuple[str, Hashes, str]]:
    """Each run, its hashes, and how they differ from those before and from those of another run of the same words."""
    runs: dict[str, Hashes] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs_folder = RunsFolder(Path(folder), command)
        for name in names:
            try:
                runs[name] = train(runs_folder, name)
            except CommandError as error:
                yield name, {}, str(error)
                continue
            differences = [difference(before.get(name, runs[name]), runs[name])]
            for twin in runs:
                if RUNS[twin]["words"] == RUNS[name]["words"] and (text := difference(runs[twin], runs[name])):
                    differences.append(f"not as {twin}: {text}")
            yield name, runs[name], "; ".join(filter(None, differences))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the hashes instead of comparing with them")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), metavar="RUN", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--command", default=f"{sys.executable} -m vitrail", help="what is run; by default %(default)s")
    parser.add_argument("--json", type=Path, default=RECORD, help="the file of hashes; by default %(default)s")
    arguments = parser.parse_args()
    if arguments.record and arguments.only:
        parser.error("--record writes all runs; leave --only out")
    if not arguments.record and not arguments.json.is_file():
        parser.error(f"there is no {arguments.json}; --record writes it")
    return arguments


def main() -> None:
    arguments, machine, sha = parse_arguments(), about_machine(), commit()
    record = {} if arguments.record else json.loads(arguments.json.read_text())
    before = record.get("runs", {})
    print(f"vitrail at commit {sha}" + (f", compared with {record['commit']}" if record else ""), flush=True)
    for key, value in machine.items() if record else ():
        if value != (old := record["machine"].get(key)):
            print(f"note: {key} is {value}, recorded with {old}: results may differ by rounding alone", flush=True)
    names, command = with_needs(arguments.only or RUNS), shlex.split(arguments.command)
    runs, failures = {}, 0
    for name, hashes, text in train_all(names, command, before):
        runs[name], failures = hashes, failures + bool(text)
        good = "same" if name in before else "recorded" if arguments.record else "not compared: no record of it"
        print(f"{name:<15} {'DIFFERS: ' + text if text else good}", flush=True)
    print(f"{failures} of {len(runs)} runs failed" if failures else f"all {len(runs)} runs are well")
    if arguments.record and not failures:
        arguments.json.write_text(json.dumps({"commit": sha, "machine": machine, "runs": runs}, indent=1) + "\n")
    append("same_results", {"runs": len(runs), "failures": failures})
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
