"""Errors for users: what is wrong, where, how to fix it; each with its exit code."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any


class VitrailError(Exception):
    """A mistake that has a remedy. `str(error)` is at most five short lines; `code` is the exit code of the command."""

    code = 1
    is_repeated = False  # another process of the run says it, or has said why this one ends too

    def __init__(self, what: str, fix: str = ""):
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what, self.fix = what, fix

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.fix), vars(self)  # errors cross process boundaries (data workers) unchanged


class UsageError(VitrailError, ValueError):
    """A call or command is not valid."""

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


SYNONYMS = {  # names in other tools: the name here
    "learning_rate": "lr", "batch": "batch_size", "num_epochs": "epochs", "max_epochs": "epochs", "max_steps": "steps",
    "iterations": "steps", "wd": "weight_decay", "warmup": "warmup_steps", "num_workers": "workers", "amp": "precision",
    "dim": "width", "embed_dim": "width", "hidden_size": "width", "num_layers": "depth", "layers": "depth",
    "blocks": "depth", "num_heads": "heads", "num_classes": "classes", "img_size": "size", "image_size": "size",
    "patch_size": "patch",
    "in_chans": "channels", "in_channels": "channels", "num_channels": "channels", "label_smoothing": "smoothing",
    "drop_path_rate": "drop_path", "drop_rate": "dropout", "init_values": "layer_scale", "lr_scheduler": "schedule",
    "output": "out", "output_dir": "out", "out_dir": "out", "dataset": "data", "arch": "model",
    "evaluate": "eval", "test": "eval", "infer": "predict", "fit": "train", "list": "models", "flops": "cost",
    "gpu": "cuda",
    "continue": "resume", "topk": "top",
}  # fmt: skip
NEAR = 0.5  # least similarity of a name that is suggested


def nearest(wanted: str, known: Iterable[str]) -> list[str]:
    """The names that `wanted` may be a misspelling of, at most three, best first; or its name here.

    >>> nearest("trian", ["train", "eval"])
    ['train']
    """
    names, low = [str(k) for k in known], wanted.casefold().strip()
    key = low.lstrip("-").replace("-", "_")
    for synonym in get_close_matches(key, SYNONYMS, n=1, cutoff=0.85):
        matches = [n for n in names if n.lstrip("-") == SYNONYMS[synonym]]
        if matches:
            return matches
    short = low[:200]  # comparing takes time with the square of the length
    like = sorted(((SequenceMatcher(None, short, n.casefold()).ratio(), n) for n in names), key=lambda pair: -pair[0])
    return [n for ratio, n in like if ratio >= max(NEAR, like[0][0] - 0.1)][:3]


def choose(wanted: str, known: Iterable[str], what: str, hint: str = "", where: str = "") -> str:
    """`wanted` if it is known; otherwise a `UsageError` that lists the nearest names, or those that exist. `what`: the
    kind of name, `where`: what it belongs to (" in optim").

    >>> choose("base", ["tiny", "base"], "variant")
    'base'
    """
    known = [str(k) for k in known]
    if wanted in known:
        return wanted
    near = nearest(str(wanted), known)
    names = sorted(filter(None, known))  # an empty one is what is used where nothing is typed
    existing = f"there {'are' if names[1:] else 'is'} {', '.join(names[:9])}"
    suggestion = f"did you mean {' or '.join(map(repr, near))}?" if near else existing
    raise UsageError(f"unknown {what} {str(wanted)!r}{where}; {suggestion}", hint)


def many(n: int, one: str, more: str = "") -> str:
    """A count with its word: "1 box", "2 boxes"."""
    return f"{n:,} {one if n == 1 else more or one + 's'}"
