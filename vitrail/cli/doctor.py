"""`vitrail doctor`: versions, device and disk of this machine, and what is wrong with them; `vitrail doctor RUN`:
what is wrong with a run."""

import os
import platform
import shutil
import sys
import textwrap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.tables import WIDEST
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import AsJson, Verb
from vitrail.errors import UsageError
from vitrail.storage.json_text import to_json


@dataclass
class Doctor(AsJson):
    """Find out what is wrong with this machine or installation, or with a run, and what to do.

    The exit code is 1 if something is wrong with the machine; with a run it is always 0.

    vitrail doctor
    vitrail doctor runs/photos
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = ""
    """A run to examine, finished or not."""
    folder: Path = Path()
    """Without a run: where runs would be written (default: here)."""


MIN_SHM = 64 * 2**20  # containers give 64 MB by default, which a few worker processes fill
MIN_DISK = 2 * 2**30


def doctor(words: list[str]) -> int:
    given, _ = read(VERB, words)
    if given.run:
        if given.folder != Path():
            raise UsageError("--folder is where runs would be written, and a run is given", "leave --folder out")
        return diagnose_run(given)
    problems: list[str] = []
    rows = [("python", platform.python_version()), *libraries(problems), *compute(problems)]
    rows += room(given.folder, problems)
    if given.json:
        print(to_json({**dict(rows), "wrong": problems}))
        return 1 if problems else 0
    for name, value in rows:
        print(f"{name:<14} {value}")
    print()
    print("\n".join(f"wrong: {line}" for line in problems) or "nothing is wrong")
    return 1 if problems else 0


def diagnose_run(given: Doctor) -> int:
    """What is wrong with a run, as text or as JSON."""
    from vitrail.assembly.run_directory import find_run
    from vitrail.report.doctor import files as disk
    from vitrail.report.doctor.examine import describe_state, examine_run
    from vitrail.report.run_data import read_run

    data = read_run(find_run(given.run))
    files = disk.read_files(data)
    findings = examine_run(data, files)
    summary = {
        "run": str(data.folder.path),
        "state": describe_state(data, files),
        "step": data.steps_done,
        "steps": data.steps,
    }
    if given.json:
        print(to_json({**summary, "findings": [finding._asdict() for finding in findings]}))
        return 0
    print("{run}: {state}, step {step:,} of {steps:,}".format(**summary))
    for finding in findings:
        print("\n".join(["", *finding_lines(finding)]))
    print("\nnothing is wrong" if not findings else "")
    return 0


def finding_lines(finding: Any) -> list[str]:
    rows = (
        ("wrong: " if finding.grave else "look:  ", finding.what),
        ("  seen ", finding.evidence),
        ("  do   ", finding.advice),
    )
    return [line for head, text in rows for line in textwrap.wrap(text, WIDEST, initial_indent=head,
                                                                  subsequent_indent=" " * len(head),
            break_long_words=False, break_on_hyphens=False)]  # fmt: skip


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def libraries(problems: list[str]) -> list[tuple[str, str]]:
    """Versions, and whether torch and torchvision belong together: mixing two package indexes is the common mistake."""
    torch, vision = version("torch"), version("torchvision")
    try:
        import torchvision

        torchvision.ops.nms  # noqa: B018
        import torch as installed

        installed.ops.torchvision.nms  # noqa: B018
        fits = True
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        fits = False
        problems.append(f"torchvision {vision} does not work with torch {torch} ({str(error).splitlines()[0][:120]})")
        problems.append("they must come from the same index: pip install --force-reinstall torch torchvision")
    if tuple(int(p) for p in torch.split("+")[0].split(".")[:2]) < (2, 10):
        problems.append(
            f"torch {torch} is older than 2.10, which fixed a vulnerability in loading weights: "
            "pip install -U torch torchvision"
        )
    local = {v.partition("+")[2] for v in (torch, vision) if "+" in v}
    note = "" if fits else "  (do not fit)"
    if len(local) > 1 or (len(local) == 1 and ("+" in torch) != ("+" in vision)):
        note += "  (from different indexes)"
    others = ("numpy", "pillow", "safetensors", "torchmetrics", "tyro", "rich")
    return [("torch", torch), ("torchvision", vision + note), *((name, version(name)) for name in others)]


def compute(problems: list[str]) -> list[tuple[str, str]]:
    import torch

    from vitrail.data.loader import count_cores
    from vitrail.engine.precision import BF16_MACS, bf16_unit
    from vitrail.engine.processes.world import best_device
    from vitrail.report.doctor.bf16 import measure_bf16_speed

    device = best_device()
    cores = count_cores()
    threads = torch.get_num_threads()
    if threads > cores:
        problems.append(f"torch uses {threads} threads on {cores} cores, which is slower: OMP_NUM_THREADS={cores}")
    if threads == 1 and cores > 1:
        setting = os.environ.get("OMP_NUM_THREADS", "unset")
        problems.append(f"torch uses one thread of {cores}: unset OMP_NUM_THREADS (now {setting})")
    unit = bf16_unit()
    ratio = f"fp32 products take {measure_bf16_speed():.1f} times as long as bf16 ones here, now"
    auto = f"bf16 from {BF16_MACS / 1e6:,.0f} million multiply-adds an image on" if unit else "fp32"
    by_size = f"auto is {auto} ({unit or 'neither AMX nor AVX512-BF16'}); {ratio}"
    on_gpu = "auto is bf16 where the GPU has it, else fp16" if device.type == "cuda" else "auto is fp32"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or platform.machine())
    return [
        ("device", f"{device} ({name})"),
        ("threads", f"{threads} of {cores} cores"),
        ("precision", by_size if device.type == "cpu" else on_gpu),
    ]


def room(folder: Path, problems: list[str]) -> list[tuple[str, str]]:
    """Free disk where runs go, and shared memory through which worker processes pass images."""
    rows = []
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    rows.append(("free disk", f"{free / 2**30:.1f} GiB at {existing}"))
    if free < MIN_DISK:
        problems.append(f"only {free / 2**30:.2f} GiB of disk are free at {existing}: checkpoints need room")
    if not os.access(existing, os.W_OK):
        problems.append(f"{existing} cannot be written")
    if sys.platform.startswith("linux") and Path("/dev/shm").exists():
        shared = shutil.disk_usage("/dev/shm").free
        rows.append(("/dev/shm", f"{shared / 2**20:,.0f} MiB free"))
        if shared <= MIN_SHM:
            problems.append("/dev/shm is small: --workers 0, or in a container --shm-size 2g")
    return rows


VERB = Verb("doctor", Doctor, doctor)
