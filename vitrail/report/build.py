"""placeholder"""

from pathlib import Path


def build(run: Path) -> Path:
    return run
