"""Damages small valid files, again and again, and reads them: only the library's own errors may leave a reader.

    python benchmarks/fuzz.py [READER ...] [--seconds 600] [--cases N] [--memory 2] [--seed 0] [--keep FOLDER]

Readers: those of `fuzz_seeds.py` (image files, weights, recipes, run folders, data sets with their survey), all of them
by default, each for so many seconds. A case is a function of (seed, reader, number). Cases run in a child process with
a limit of `--memory` GiB of address space, one after another; where one ends the child, the next child goes on behind
it. Fails (exit 1) where anything but a `VitrailError` left, a library warned, or a case took more than 2 s of processor
time or 500 MB of memory. `--keep` writes the files of faulty cases there. Needs Linux (`/proc`).
"""

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import fuzz_seeds
from history import append

from vitrail.errors import VitrailError

SLOW, LARGE = 2.0, 500  # seconds of processor time, MB
STUCK = 60  # seconds after which a child is killed


class Outcome(NamedTuple):
    """What one case gave. kind: read, refused, or the fault."""

    case: int
    kind: str
    seconds: float
    megabytes: float


def run_case(reader: fuzz_seeds.Reader, seeds: list[Path], folder: Path, case: int, seed: int) -> Outcome:
    """Damages one file of a copy of the seeds, and reads."""
    chance = random.Random(f"{seed} {reader.name} {case}")
    target = chance.choice(seeds)
    path = folder / target.name
    good = target.read_bytes()
    place = folder / "data" / target.relative_to(folder / "good")
    place.write_bytes(reader.damage(good, chance))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    kind = "read"
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            reader.read(folder / "data", place)
        if warned:
            kind = f"warning {warned[0].category.__name__}: {str(warned[0].message)[:90]}"
    except VitrailError:
        kind = "refused"
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:90]}"
    seconds, megabytes = time.process_time() - start, memory("VmHWM") - before
    if kind in ("read", "refused") and (seconds > SLOW or megabytes > LARGE):
        kind = f"too {'slow' if seconds > SLOW else 'large'}"
    if kind in ("read", "refused"):
        place.write_bytes(good)
    else:
        path.with_suffix(".fault").write_bytes(place.read_bytes())
        place.write_bytes(good)
    return Outcome(case, kind, seconds, megabytes)


def memory(key: str) -> float:
    """MB of this process by a line of /proc/self/status."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def child(reader: fuzz_seeds.Reader, folder: Path, first: int, options: argparse.Namespace, until: float) -> None:
    """Runs cases from `first` on and writes a line for each; never returns."""
    limit = int(options.memory * 2**30 + memory("VmSize") * 2**20)  # beyond what the libraries map from the start
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seeds = sorted(p for p in (folder / "good").rglob("*") if p.is_file() and reader.damages(p))
    with (folder / "outcomes.jsonl").open("a") as lines:
        case = first
        while time.monotonic() < until and case < options.cases:
            (folder / "case").write_text(str(case))
            outcome = run_case(reader, seeds, folder, case, options.seed)
            lines.write(json.dumps(outcome) + "\n")
            lines.flush()
            if options.keep and outcome.kind not in ("read", "refused"):
                shutil.copy(next(folder.glob("*.fault")), Path(options.keep) / f"{reader.name}-{case}")
            for fault in folder.glob("*.fault"):
                fault.unlink()
            case += 1
    os._exit(0)


def fuzz(reader: fuzz_seeds.Reader, options: argparse.Namespace) -> list[Outcome]:
    """The outcomes of all cases of a reader."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good").mkdir()
        reader.make(folder / "good")
        shutil.copytree(folder / "good", folder / "data")
        reader.read(folder / "data", next(p for p in sorted((folder / "data").rglob("*")) if reader.damages(p)))
        (folder / "outcomes.jsonl").touch()
        until, first, killed = time.monotonic() + options.seconds, 0, []
        while time.monotonic() < until and first < options.cases:
            process = os.fork()
            if process == 0:
                child(reader, folder, first, options, until)
            status = wait(process, folder)
            case = int((folder / "case").read_text())
            if status:
                killed.append(Outcome(case, f"process ended by {status}", 0.0, 0.0))
                shutil.rmtree(folder / "data")
                shutil.copytree(folder / "good", folder / "data")
            first = case + 1
        lines = (folder / "outcomes.jsonl").read_text().splitlines()
    return [Outcome(*json.loads(line)) for line in lines] + killed


def wait(process: int, folder: Path) -> str:
    """Waits for a child, and kills it where a case takes too long. What ended it, "" for its time."""
    last, since = "", time.monotonic()
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"exit {code}" if code > 0 else f"signal {-code}" if code else ""
        case = (folder / "case").read_text() if (folder / "case").exists() else ""
        if case != last:
            last, since = case, time.monotonic()
        elif time.monotonic() - since > STUCK:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return f"being stuck for {STUCK} s"
        time.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(fuzz_seeds.READERS))
    parser.add_argument("--seconds", type=float, default=600, help="for a reader")
    parser.add_argument("--cases", type=float, default=math.inf, help="for a reader, at most")
    parser.add_argument("--memory", type=float, default=2, help="GiB of address space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="a folder for the files of faulty cases")
    options = parser.parse_args(arguments)
    if unknown := set(options.readers) - set(fuzz_seeds.READERS):
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(fuzz_seeds.READERS)}")
    if options.keep:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
    bad, figures = 0, {}
    for name in options.readers or fuzz_seeds.READERS:
        outcomes = fuzz(fuzz_seeds.READERS[name], options)
        kinds = Counter(o.kind for o in outcomes)
        figures[name] = {
            "cases": len(outcomes),
            "refused": kinds["refused"],
            "faults": len(outcomes) - kinds["refused"] - kinds["read"],
            "slowest s": round(max((o.seconds for o in outcomes), default=0), 2),
            "largest MB": round(max((o.megabytes for o in outcomes), default=0)),
        }
        print(f"{name:12}", *(f"{key} {value}" for key, value in figures[name].items()), sep="   ", flush=True)
        for kind in sorted(set(kinds) - {"read", "refused"}):
            first = min(o.case for o in outcomes if o.kind == kind)
            print(f"    {kinds[kind]} x {kind} (first in case {first})", flush=True)
        bad += figures[name]["faults"]
    append("fuzz", figures, {"seconds": options.seconds, "memory GiB": options.memory, "seed": options.seed})
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
