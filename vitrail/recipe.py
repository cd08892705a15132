"""A whole run as data: a TOML file and the words of a command line become one frozen `Recipe`.

    vitrail train recipes/mini.toml --model.depth 6 --optim.lr 1e-3

A value of None means "chosen from the data when the run begins"; the choice and its reason are printed and saved. The
sections `model`, `data` and `task` name a module and hold keys for its `Config`; the others are spelled out here.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Le

from vitrail.errors import UsageError, nearest, pick
from vitrail.validation import Above, Amount, Byte, Count, Fraction, Positive, Share, checked, update

Size = tuple[Positive, Positive]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Many = Annotated[int, Ge(1), Le(10**9)]  # of what is counted with 64 bits, a product of two included
Workers = Annotated[int, Ge(0), Le(256)]


@dataclass(frozen=True)
class Choice:
    """A module by name, and values for the fields of its `Config`."""

    name: str = ""  # empty: chosen from the data
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What the weights are before the first step, if not drawn by chance."""

    weights: str = ""  # a run, a model folder, or a file of published weights
    source: str = "auto"  # whose names a file has: "timm", "transformers", ...
    head: Literal["auto", "keep", "new"] = "auto"  # "auto": kept where the classes are the same


@dataclass(frozen=True)
class Input:
    """What a picture becomes before the model sees it. Belongs to the model ever after."""

    size: Size | None = None  # height and width in pixels
    channels: Count = 0  # 1, 3 or more; 0: as the data
    mean: tuple[Share, ...] | None = None  # per channel in [0, 1]; None: measured on the training part
    std: tuple[Above, ...] | None = None
    resize: Literal["stretch", "crop", "fit", "slide", "tile"] | None = None  # "slide" and "tile" for masks and boxes: `Preprocess`
    crop_ratio: Above = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)  # under transparent pixels
    vae: str | None = None  # denoisers: a folder with an AutoencoderKL of diffusers', whose latents are learned; None: pixels are
    vae_hash: str | None = None  # of its weights and config; None: as it lies there


@dataclass(frozen=True)
class Augment:
    """What training does to a picture, by chance that is a function of (seed, epoch, picture)."""

    crop: Literal["none", "pad", "random"] | None = None  # "pad": shift by up to `pad` pixels; "random": a part, resized
    pad: Count = 2
    scale: tuple[Share, Share] = (0.35, 1.0)  # share of the area that a random crop keeps
    resize: tuple[Above, Above] = (0.75, 1.5)  # masks and boxes: a random crop is cut from a picture made so many times larger
    mosaic: Share = 0.0  # masks and boxes: probability that a picture is one of four on its canvas
    flip: bool | None = None  # left and right
    flip_vertical: bool = False
    randaugment: Count = 0  # operations per picture
    magnitude: Annotated[int, Ge(0), Le(30)] = 9  # of RandAugment, 0 to 30
    policy: Literal["none", "autoaugment", "trivialaugment", "3-augment"] = "none"  # in place of RandAugment
    jitter: Amount = 0.0  # of brightness, contrast and saturation
    erase: Share = 0.0  # probability of erasing a rectangle
    mixup: Amount = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: Amount = 0.0
    mix_share: Share = 1.0  # probability that MixUp or CutMix is done at all
    mix_switch: Share = 0.5  # share of CutMix where both are on
    mix_each: Literal["pair", "batch"] = "pair"  # what has a chance of its own: every pair of pictures, or the whole batch
    repeats: Positive = 1  # repeated augmentation: how often a picture comes in a batch, each time augmented anew


@dataclass(frozen=True)
class Optim:
    kind: Literal["adamw", "lamb", "sgd", "muon"] = "adamw"
    lr: Amount | None = None
    weight_decay: Amount | None = None  # of linear and convolution weights only; None: 0.05, of denoisers 0
    betas: tuple[Fraction, Fraction] | None = None  # None: 0.9 0.999, of JiT 0.9 0.95
    eps: Above = 1e-8
    momentum: Fraction = 0.9  # of SGD and Muon
    schedule: Literal["cosine", "linear", "constant"] | None = None  # None: cosine, of denoisers constant
    warmup: Count | None = None  # steps
    final: Share = 0.0  # share of the rate that is left at the end
    clip: Amount = 1.0  # largest norm of the gradient; 0: no clipping
    layer_decay: Above = 1.0  # factor on the rate from each block to the one below
    freeze: Literal["none", "backbone"] | Count = "none"  # or how many blocks from the stem up
    unfreeze: tuple[Count, ...] = ()  # steps at which what is frozen begins to learn, in equal parts from the head down
    ema: Fraction | None = None  # decay per step of the averaged weights; 0: off; None: off, of denoisers 0.9999
    ema2: Fraction | None = None  # of a second average beside it, for `vitrail sample --ema 2`; None: off


@dataclass(frozen=True)
class Plan:
    """How long, how much at a time, in which numbers."""

    epochs: Above | None = None
    steps: Many | None = None  # instead of epochs
    batch: Many | None = None  # of all processes together
    seed: Seed = 0
    share: Annotated[float, Gt(0), Le(1)] = 1.0  # of the training pictures of every class, drawn by the seed
    eval_every: Count | None = None  # steps; 0: only at the end
    patience: Count = 0  # stop after so many evaluations without a better one, and keep the best weights; 0: go to the end
    sampling: Literal["shuffle", "balanced"] = "shuffle"  # "balanced": every class is shown equally often
    grow_from: Size | None = None  # progressive resolution: the size that training begins with ...; None: off
    grow_until: Share = 0.8  # ... and the share of the steps after which input.size is reached
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # "auto": probed on this machine
    compile: bool = False
    bad: Literal["fail", "skip"] = "fail"  # a picture that cannot be read: stop before step 0, or leave it out
    bad_budget: Share = 0.001  # largest share that may be left out
    fingerprint: Literal["stat", "content"] = "stat"  # how a changed data set is noticed


@dataclass(frozen=True)
class Machine:
    """What may change when a run is resumed: none of it changes a picture, their order or the rate, and without dropout and
    drop path none changes the result by more than rounding. Those draw their masks for a piece of the batch, and denoisers their noise,
    so other pieces, or another number of processes, draw others."""

    micro: Positive | None = None  # pictures at once in each process; smaller ones are accumulated to the batch
    workers: Workers | None = None  # processes that read pictures; None: none for data in memory
    grad_checkpoint: bool = False  # compute activations again in the backward pass to save memory
    cache: bool = False  # keep decoded pictures in memory
    latents: str = ""  # folder that latents are kept in; "": latents/ beside the folder of the run
    channels_last: bool = False  # the layout in memory that some machines' convolutions prefer
    log_every: Positive = 10
    save_every: Positive = 200
    keep: int = 2  # checkpoints, at least 2
    tensorboard: bool = False
    judge: str = ""  # of a model that makes pictures: a run of a classifier, by which evaluations also measure the Frechet distance


@dataclass(frozen=True)
class Recipe:
    model: Choice = field(default_factory=Choice)
    data: Choice = field(default_factory=Choice)
    task: Choice = field(default_factory=Choice)
    start: Start = field(default_factory=Start)
    input: Input = field(default_factory=Input)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    plan: Plan = field(default_factory=Plan)
    machine: Machine = field(default_factory=Machine)


USUAL: dict[str, Any] = {"weight_decay": 0.05, "betas": (0.9, 0.999), "schedule": "cosine", "ema": 0.0, "ema2": 0.0}  # what None is
SECTIONS = tuple(f.name for f in dataclasses.fields(Recipe))
CHOICES = ("model", "data", "task")
FREE = ("machine",)


def settled(optim: Optim) -> Optim:
    """The same with what is usual in place of what is open, the rate and its warm-up left out."""
    return dataclasses.replace(optim, **{key: value for key, value in USUAL.items() if getattr(optim, key) is None})


class Change(NamedTuple):
    key: str
    old: Any
    new: Any


def find(path: Path) -> Path:
    """A recipe file; where there is none of that name, the one that comes with vitrail: recipes/mini.toml, or mini.toml alone."""
    if path.exists() or path.parent.name not in ("", "recipes") or path.is_absolute():
        return path
    home = Path(__file__).parent
    come_with = (folder / path.name for folder in (home / "recipes", home.parent / "recipes"))  # in a wheel, in the repository
    return next((one for one in come_with if one.is_file()), path)


def read(path: Path) -> Recipe:
    """The recipe in a TOML file. Errors: `UsageError` with the line of a syntax error or the key that is wrong."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a recipe", "to train on a folder of pictures: vitrail train --data FOLDER")
    if path.suffix != ".toml":
        raise UsageError(f"{path} is not a recipe, which is a .toml file", f"is it what to train on? vitrail train --data {path}")
    if not path.is_file():
        near = nearest(path.name, there := sorted(p.name for p in path.absolute().parent.glob("*.toml")))
        raise UsageError(f"there is no recipe {path}", f"beside it: {', '.join(near or there[:5])}" if there else "check the path")
    try:
        return from_tables(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except UnicodeDecodeError:
        raise UsageError(
            f"{path} is not a recipe: it is not UTF-8 text", "a recipe is TOML: [section] lines and key = value lines"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{path} is not TOML: {error}", 'a recipe has lines [section] and key = value; texts stand in quotes "..."'
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None


def from_tables(tables: dict[str, Any], where: str = "the recipe") -> Recipe:
    """A recipe from nested tables, such as TOML gives."""
    recipe = Recipe()
    for name, table in tables.items():
        pick(name, SECTIONS, "section", f"sections: {', '.join(SECTIONS)}", f" in {where}")
        if not isinstance(table, dict):
            raise UsageError(f"[{name}] in {where} is a section, not a value", f"write [{name}] and the keys below it")
        recipe = override(recipe, name, table)
    return recipe


def override(recipe: Recipe, section: str, keys: dict[str, Any]) -> Recipe:
    """The recipe with some keys of a section changed. Another name empties the keys that belonged to the old one; where none had
    been said yet, the keys were meant for whatever it would be."""
    old = getattr(recipe, section)
    if section not in CHOICES:
        return dataclasses.replace(recipe, **{section: update(old, keys, section)})
    rest = {k.replace("-", "_"): v for k, v in keys.items() if k != "name"}
    name = checked(keys.get("name", old.name), str, f"{section}.name")
    kept = old.keys if old.name in ("", name) else {}
    changed: Any = {section: Choice(name, {**kept, **rest})}
    return dataclasses.replace(recipe, **changed)


def to_tables(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested tables that TOML and JSON can hold; what is None is left out."""
    tables = {}
    for name in SECTIONS:
        part = getattr(recipe, name)
        keys = {"name": part.name, **part.keys} if isinstance(part, Choice) else dataclasses.asdict(part)
        tables[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items() if v is not None}
    return tables


def changes(old: Recipe, new: Recipe) -> list[Change]:
    """Every key that differs and would change the result of a run."""
    a, b = to_tables(old), to_tables(new)
    found = []
    for section in SECTIONS:
        if section not in FREE:
            for key in sorted({*a[section], *b[section]}):
                if a[section].get(key) != b[section].get(key):
                    found.append(Change(f"{section}.{key}", a[section].get(key), b[section].get(key)))
    return found
