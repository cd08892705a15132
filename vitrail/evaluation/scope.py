"""What an evaluation is of: which images of which data, in a sentence and for programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.assembly.data import reopen_dataset
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Dataset, Entry, Split, join_splits
from vitrail.data.fingerprint import read_entries
from vitrail.data.splits import evaluation_part
from vitrail.errors import VitrailError, choose, many

ALL = "all"  # the name of all parts together, and of data that names none
SHOWN = 8  # names of classes in a sentence


@dataclass(frozen=True)
class Scope:
    """data: its name; parts: the number of images in every part of it; classes: those of the data that the model knows;
    excluded: what was left out; trained: how many of the images the model was trained on; weights: which, as
    `RunFolder.describe_weights` returns; own: whether it is the data of the run."""

    data: str
    layout: str
    part: str
    count: int
    parts: dict[str, int]
    classes: tuple[str, ...]
    model_classes: tuple[str, ...]
    excluded: str = ""
    trained: int = 0
    weights: Mapping[str, Any] = field(default_factory=dict)
    own: bool = True

    @property
    def selection(self) -> bool:
        """Whether the best weights were chosen on these images."""
        return self.own and "part" in self.weights and self.part in (self.weights["part"], ALL)

    def sentence(self) -> str:
        """One sentence: count, part, classes, and what makes the numbers better than those of new images."""
        where = f"all of {self.data}" if self.part == ALL else f"the {self.part} part of {self.data}"
        others = [f"{count:,} {part}" for part, count in self.parts.items() if part != self.part]
        beside = f" (not its {' and '.join(others)})" if others and self.part != ALL else ""
        facts = [f"evaluated {many(self.count, 'image')}, {where}{beside}", *self.describe_classes()]
        if "step" in self.weights:
            facts.append(f"the best weights, of step {self.weights['step']:,}")
        facts += [f"left out: {self.excluded}"] if self.excluded else []
        if self.trained:
            them = "the model was trained on them" if self.trained == self.count else (
                f"the model was trained on {self.trained:,} of them")  # fmt: skip
            facts.append(f"{them}: this does not hold for new images")
        if self.selection:
            facts.append("the best weights were chosen on them, so new images may do a little worse")
        return "; ".join(facts)

    def describe_classes(self) -> list[str]:
        if not self.model_classes or not self.classes:
            return []
        names = list_names(self.classes)
        if len(self.classes) == len(self.model_classes):
            return [f"{many(len(self.classes), 'class', 'classes')}: {names}"]
        lacking = list_names(tuple(name for name in self.model_classes if name not in self.classes))
        return [f"{len(self.classes):,} of the model's {len(self.model_classes):,} classes: {names} (no {lacking})"]

    def numbers(self) -> dict[str, Any]:
        """For programs; "classes" are those of the model, in the order of the columns of its metrics."""
        return {
            "evaluated": self.sentence(),
            "data": self.data,
            "layout": self.layout,
            "part": self.part,
            "parts": self.parts,
            "classes": list(self.model_classes),
            "data_classes": list(self.classes),
            "excluded": self.excluded,
            "trained_on": self.trained,
            "chosen_on": self.selection,
            "weights": dict(self.weights),
        }


def list_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def choose_split(dataset: Dataset, requested: str, own: bool) -> tuple[str, Split]:
    """The name and the images of a part: as requested, "all" for all parts together; by default test, else val, else
    all there is. own: whether it is the data of the run. Errors: `UsageError` for an unknown part."""
    parts = dataset.splits
    unnamed = not own and set(parts) == {"train"}  # other data is never split randomly: this is all of it
    name = requested or (ALL if unnamed else evaluation_part(dataset, final=True))
    if name == ALL:
        return ALL, join_splits(list(parts.values()))
    hint = f"parts: {', '.join(parts)}; --split {ALL} takes all of them"
    return name, parts[choose(name, (*parts, ALL), "part of the data", hint)]


def count_trained(dataset: Dataset, split: Split, run: RunFolder) -> int:
    """How many images of other data the model was trained on: the same files by name, size and time, wherever they
    lie."""
    try:
        known = {identify(entry): entry.name for entry in read_entries(run.entries)}
        shared = {entry.name: known[identify(entry)] for entry in dataset.entries if identify(entry) in known}
        trained = set(reopen_dataset(run.recipe(), run.about()).splits["train"].names) if shared else set()
    except (VitrailError, OSError, KeyError):  # the data of the run is gone or changed
        return 0
    return sum((name if split.array is not None else shared.get(name)) in trained for name in split.names)


def identify(entry: Entry) -> tuple[str, int, int]:
    return Path(entry.name).name, entry.size, entry.modified
