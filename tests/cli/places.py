"""What the command is tried on: small data of every layout, good and bad, and a run that takes a second."""

import contextlib
import io
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.cli.main import main

TINY = ["--model", "vit/nano", "--model.depth", "1", "--model.width", "32", "--model.heads", "2"]
SHORT = [*TINY, "--steps", "3", "--batch-size", "4", "--plan.eval-every", "0", "--precision", "fp32", "--workers", "0"]


def pictures(folder: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 6, suffix: str = "png", channels: int = 3) -> Path:
    """Class folders of noise, 12 x 12."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = random.integers(0, 256, (12, 12, channels), np.uint8)
            Image.fromarray(noise.squeeze()).save(folder / name / f"{i}.{suffix}")
    return folder


def npz(file: Path, classes: int = 3) -> Path:
    """MedMNIST's layout with a train and a test part."""
    random = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 24), ("test", 9)):
        parts[f"{part}_images"] = random.integers(0, 256, (count, 12, 12, 1), np.uint8)
        parts[f"{part}_labels"] = np.arange(count) % classes
    np.savez(file, **parts)
    return file


def table(file: Path, rows: list[str], head: str = "path,label") -> Path:
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def good_rows() -> list[str]:
    return [f"good/{name}/{i}.png,{number}" for number, name in enumerate(("ant", "bee")) for i in range(6)]


def everything(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def vitrail(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(w) for w in words])
    return code, out.getvalue(), err.getvalue()


def refused(folder: Path, words: str, code: int, piece: str) -> None:
    """A command in `folder` that must fail: with its exit code, a few plain lines that say `piece`, and nothing left on disk."""
    before = everything(folder)
    found, out, err = vitrail(*shlex.split(words))
    assert everything(folder) == before, "a refused command leaves nothing behind"
    assert found == code, err
    lines = err.splitlines()
    assert 1 <= len(lines) <= 5, err
    assert len(err) < 2000
    assert lines[0].startswith("vitrail: ")
    assert piece in " ".join(line.strip() for line in lines), err
    assert "Traceback" not in out + err
    assert "unexpected error" not in err


def must(*words: object) -> str:
    """Stdout of a command that must succeed."""
    code, out, err = vitrail(*words)
    assert code == 0, f"vitrail {' '.join(map(str, words))}\n{out}\n{err}"
    return out
