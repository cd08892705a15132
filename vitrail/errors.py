"""What a user is told when something is wrong: what, where, how to fix it; and the exit code that goes with it."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any


class VitrailError(Exception):
    """A mistake that has a remedy. `str(error)` is at most five short lines; `code` is the exit code of the command."""

    code = 1

    def __init__(self, what: str, fix: str = ""):
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what, self.fix = what, fix

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.fix)  # errors cross process boundaries (data workers) unchanged


class UsageError(VitrailError, ValueError):
    """The words of a call or command are off."""

    code = 2


class DataError(VitrailError):
    """The images or their labels cannot be used as they are."""

    code = 3


class BadImage(DataError):
    """One image that cannot be decoded: the only error that leaves the decoder."""


class CheckpointError(VitrailError):
    """A checkpoint or weights file is missing, damaged or does not fit."""

    code = 4


class RunError(VitrailError):
    """A run stopped: a number that is not finite, a full disk, a lost process."""

    code = 1


class Interrupted(VitrailError):
    """A run was asked to stop by a signal, and saved first. `code` is 128 + the signal's number."""

    def __init__(self, what: str, fix: str = "", code: int = 130):
        super().__init__(what, fix)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.fix, self.code)


SYNONYMS = {  # what others call it: what it is called here
    "learning_rate": "lr", "batch": "batch_size", "num_epochs": "epochs", "max_epochs": "epochs", "max_steps": "steps",
    "iterations": "steps", "wd": "weight_decay", "warmup": "warmup_steps", "num_workers": "workers", "amp": "precision",
    "dim": "width", "embed_dim": "width", "hidden_size": "width", "num_layers": "depth", "layers": "depth", "blocks": "depth",
    "num_heads": "heads", "num_classes": "classes", "img_size": "size", "image_size": "size", "patch_size": "patch",
    "in_chans": "channels", "in_channels": "channels", "num_channels": "channels", "label_smoothing": "smoothing",
    "drop_path_rate": "drop_path", "drop_rate": "dropout", "init_values": "layer_scale", "lr_scheduler": "schedule",
    "output": "out", "output_dir": "out", "out_dir": "out", "dataset": "data", "arch": "model", "evaluate": "eval", "test": "eval",
    "infer": "predict", "fit": "train", "list": "models", "flops": "cost", "gpu": "cuda", "continue": "resume", "topk": "top",
}  # fmt: skip
NEAR = 0.5  # least likeness of a name that is proposed


def nearest(wanted: str, known: Iterable[str]) -> list[str]:
    """The names that `wanted` may be a misspelling of, at most three, best first; or what it is called here.

    >>> nearest("trian", ["train", "eval"])
    ['train']
    """
    names, low = [str(k) for k in known], wanted.casefold().strip()
    plain = low.lstrip("-").replace("-", "_")
    for said in get_close_matches(plain, SYNONYMS, n=1, cutoff=0.85):
        meant = [n for n in names if n.lstrip("-") == SYNONYMS[said]]
        if meant:
            return meant
    short = low[:200]  # comparing takes time with the square of the length
    like = sorted(((SequenceMatcher(None, short, n.casefold()).ratio(), n) for n in names), key=lambda pair: -pair[0])
    return [n for ratio, n in like if ratio >= max(NEAR, like[0][0] - 0.1)][:3]


def choose(wanted: str, known: Iterable[str], what: str, hint: str = "", where: str = "") -> str:
    """`wanted` if it is known; otherwise a `UsageError` that names its nearest neighbours, or what there is. `what` says what kind
    of name it is, `where` to what it belongs (" in optim").

    >>> pick("base", ["tiny", "base"], "variant")
    'base'
    """
    known = [str(k) for k in known]
    if wanted in known:
        return wanted
    near = nearest(str(wanted), known)
    there = f"there {'are' if known[1:] else 'is'} {', '.join(sorted(known)[:9])}"
    told = f"did you mean {' or '.join(map(repr, near))}?" if near else there
    raise UsageError(f"unknown {what} {str(wanted)!r}{where}; {told}", hint)


def many(n: int, one: str, more: str = "") -> str:
    """A count with its word: "1 box", "2 boxes"."""
    return f"{n:,} {one if n == 1 else more or one + 's'}"
