"""Processes that their launcher started again continue the run that they had begun; they are not refused its folder."""

import os
import socket
from pathlib import Path

from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.processes.world import World
from vitrail.errors import VitrailError


def launchers(world: World) -> list[str]:
    """The launchers of all processes, one a machine: torchrun's own id, and which process on which machine it is, since
    ids are used again. Empty without torchrun."""
    return sorted(set(world.gather_objects(own_launcher())) - {""})


def own_launcher() -> str:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    return f"{os.environ['TORCHELASTIC_RUN_ID']} on {socket.gethostname()}, process {parent}{started_at(parent)}"


def started_at(process: int) -> str:
    """When a process was started, as Linux counts: numbers of processes are used again, above all in containers."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f" of {fields[19]} since {boot}"
    except (OSError, IndexError):
        return ""


def find_begun(out: Path | None, world: World) -> RunFolder | None:
    """The run that this launch has begun at `out`, or without it the newest in runs/; None where there is none."""
    mine = launchers(world)
    return world.on_rank_zero(lambda: search(out, mine)) if mine else None


def search(out: Path | None, mine: list[str]) -> RunFolder | None:
    paths = [out] if out else sorted((p.parent for p in Path("runs").glob("*/run.json")), key=age)
    for folder in map(RunFolder, paths):
        try:
            if folder.is_run and set(mine) & set(folder.about().get("launch", [])):
                return folder
        except VitrailError:  # of another version, or damaged
            continue
    return None


def age(path: Path) -> tuple[int, str]:
    """A key that sorts the newest run first."""
    return -(path / "run.json").stat().st_mtime_ns, path.name
