"""What benchmarks gave, and when: each appends a row to `benchmarks/history.jsonl`.

A row has the benchmark's name, the date, the commit, the machine, the settings that it ran with, and its figures:
numbers by name. `benchmarks/table.py` prints the rows of one.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# another file for what is only tried
HISTORY = Path(os.environ.get("BENCHMARK_HISTORY", Path(__file__).with_name("history.jsonl")))


def append(
    benchmark: str, figures: Mapping[str, Any], settings: Mapping[str, Any] | None = None, path: Path = HISTORY
) -> dict[str, Any]:
    """Adds a row and returns it. `figures` and `settings` may be nested; what JSON does not know is written as text."""
    row = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "settings": flat(settings or {}),
        "figures": flat(figures),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return row


def read(path: Path = HISTORY) -> list[dict[str, Any]]:
    """All rows, oldest first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line] if path.exists() else []


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """One level: {"a": {"b": 1}} -> {"a b": 1}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found.update(flat(value, f"{before}{name} ") if isinstance(value, Mapping) else {f"{before}{name}": value})
    return found


def commit() -> str:
    """The short hash of the commit, with a + where files differ from it; "" outside of git."""
    here = Path(__file__).parent
    try:
        short = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=here, text=True).strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":!history.jsonl"], cwd=here).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return short + ("+" if changed else "")


def machine() -> str:
    """What the figures depend on: processor, cores, GPU, versions. Nothing that tells whose machine it is."""
    import torch

    parts = [
        processor(),
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
    ]
    if torch.cuda.is_available():
        parts.insert(2, torch.cuda.get_device_name())
    return ", ".join(parts)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
