"""The fifteen flags without a section: one table of the recipe key of each."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from vitrail.recipe import CHOICES, Recipe

Key = tuple[str, str]


class Flag(NamedTuple):
    name: str
    takes: str
    about: str  # on one line of 80 columns
    key: Key | None = None  # section and key of a recipe; None: of the command alone
    short: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name}"


FLAGS = (
    Flag("data", "PATH", "images: a folder, .csv, .npz, COCO .json, or mini", ("data", "path")),
    Flag("model", "NAME", "such as vit/nano; see vitrail models", ("model", "name")),
    Flag("weights", "NAME", "start from a run, a file, or by name: vit/small", ("init", "weights")),
    Flag("accept-licence", "NAME", "accept a licence that restricts the weights", ("init", "accept_licence")),
    Flag("task", "NAME", "what is learned, such as distillation", ("task", "name")),
    Flag("out", "DIR", "folder of the run (default: a new one in runs/)"),
    Flag("resume", "RUN", "continue this run"),
    Flag("epochs", "N", "passes over the training images", ("train", "epochs"), "e"),
    Flag("steps", "N", "optimizer steps, instead of epochs", ("train", "steps")),
    Flag("batch-size", "N", "images per step, over all processes", ("train", "batch_size"), "b"),
    Flag("lr", "X", "peak learning rate", ("optim", "lr")),
    Flag("weight-decay", "X", "weight decay", ("optim", "weight_decay")),
    Flag("img-size", "H [W]", "height and width in pixels; one number: square", ("input", "size")),
    Flag("seed", "N", "seed of everything random (default: 0)", ("train", "seed")),
    Flag("workers", "N", "processes that load images", ("runtime", "workers")),
    Flag("parallel", "NAME", "several processes: auto, ddp, fsdp or hsdp", ("runtime", "parallel")),
    Flag("precision", "NAME", "auto, fp32, bf16 or fp16 (default: auto)", ("train", "precision")),
    Flag("device", "NAME", "auto, cpu, cuda, mps or a GPU's number (default: auto)"),
)
KEYED = tuple(flag for flag in FLAGS if flag.key)  # those that are keys of a recipe
BY_NAME = {flag.flag: flag for flag in FLAGS}
SHORT = {f"-{flag.short}": flag.flag for flag in FLAGS if flag.short}
NAMING = ("data", "model", "task", "weights")  # read first: the other keys depend on them


def flag_of(section: str, key: str) -> str:
    """A key of a recipe as a flag.

    >>> flag_of("optim", "lr"), flag_of("optim", "layer_decay")
    ('--lr', '--optim.layer-decay')
    """
    return next((f.flag for f in KEYED if f.key == (section, key)), f"--{section}.{key}".replace("_", "-"))


def changes_of(flag: Flag, value: Any) -> dict[str, Any]:
    """The keys that a flag sets in its section of a recipe. --data also resets the layout, which the path decides."""
    assert flag.key
    return {"name": "", flag.key[1]: value} if flag.key == ("data", "path") else {flag.key[1]: value}


def expand_short_flags(words: Iterable[str]) -> list[str]:
    """`words` with the short spellings written out: -e 3, -b 8, --img-size 224 (a square), --device 0 (a GPU)."""
    expanded: list[str] = []
    for word in words:
        head, equals, value = word.partition("=")
        head = SHORT.get(head, head)
        expanded += [head, value] if equals and head in ("--img-size", "--device") else [f"{head}{equals}{value}"]
    for i in reversed(range(len(expanded) - 1)):
        value, after = expanded[i + 1], expanded[i + 2 : i + 3]
        if expanded[i] == "--device" and value.isdecimal():
            expanded[i + 1] = f"cuda:{value}"
        if (
            expanded[i] == "--img-size"
            and value.isdecimal()
            and not (after and after[0].lstrip("-+").replace(".", "").isdecimal())
        ):
            expanded.insert(i + 2, value)
    return expanded


def kind_of(key: Key) -> Any:
    """The type of a key of a recipe."""
    from typing import get_type_hints

    section, name = key
    return str if section in CHOICES else get_type_hints(type(getattr(Recipe(), section)), include_extras=True)[name]
