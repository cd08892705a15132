"""A whole run as data: a TOML file and the words of a command line become one frozen `Recipe`.

    vitrail train recipes/mini.toml --model.depth 6 --lr 1e-3

A value of None means "chosen from the data when the run begins"; the choice and its reason are printed and saved. The
sections `model`, `data` and `task` name a module and hold keys for its `Config`; the others are spelled out here.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Le

from vitrail.errors import UsageError, choose, nearest
from vitrail.validation import (
    Byte,
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    UnitInterval,
    update_config,
    validate,
)

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
class DataConfig(Choice):
    """A data set: its layout with the keys of that, and what is done with the images whatever the layout."""

    fraction: Annotated[float, Gt(0), Le(1)] = 1.0  # of the training images of every class, drawn by the seed
    sampler: Literal["shuffle", "balanced"] = "shuffle"  # "balanced": every class is shown equally often
    on_error: Literal["fail", "skip"] = "fail"  # an image that cannot be read: stop before step 0, or leave it out
    max_errors: UnitInterval = 0.001  # largest share that may be left out
    fingerprint: Literal["stat", "content"] = "stat"  # how a changed data set is noticed


@dataclass(frozen=True)
class InitConfig:
    """What the weights are before the first step, if not drawn by chance."""

    weights: str = ""  # a run, a model folder, or a file of published weights
    format: str = "auto"  # whose names a file has: "timm", "transformers", ...
    head: Literal["auto", "keep", "new"] = "auto"  # "auto": kept where the classes are the same


@dataclass(frozen=True)
class InputConfig:
    """What an image becomes before the model sees it. Belongs to the model ever after."""

    size: Size | None = None  # height and width in pixels
    channels: Count = 0  # 1, 3 or more; 0: as the data
    mean: tuple[UnitInterval, ...] | None = None  # per channel in [0, 1]; None: measured on the training part
    std: tuple[PositiveFloat, ...] | None = None
    resize_mode: Literal["stretch", "crop", "fit", "slide", "tile"] | None = (
        None  # "slide" and "tile" for masks and boxes: `Preprocess`
    )
    crop_ratio: PositiveFloat = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)  # under transparent pixels
    vae: str | None = (
        None  # denoisers: a folder with an AutoencoderKL of diffusers', whose latents are learned; None: pixels are
    )
    vae_hash: str | None = None  # of its weights and config; None: as it lies there


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to an image, by chance that is a function of (seed, epoch, image)."""

    crop: Literal["none", "pad", "random"] | None = (
        None  # "pad": shift by up to `pad` pixels; "random": a part, resized
    )
    pad: Count = 2
    scale: tuple[UnitInterval, UnitInterval] = (0.35, 1.0)  # share of the area that a random crop keeps
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (
        0.75,
        1.5,
    )  # masks and boxes: a random crop is cut from an image made so many times larger
    mosaic: UnitInterval = 0.0  # masks and boxes: probability that an image is one of four on its canvas
    hflip: bool | None = None  # left and right
    vflip: bool = False
    randaugment_ops: Count = 0  # operations per image
    magnitude: Annotated[int, Ge(0), Le(30)] = 9  # of RandAugment, 0 to 30
    auto_augment: Literal["none", "autoaugment", "trivialaugment", "3-augment"] = "none"  # in place of RandAugment
    color_jitter: NonNegative = 0.0  # of brightness, contrast and saturation
    random_erasing: UnitInterval = 0.0  # probability of erasing a rectangle
    mixup: NonNegative = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: NonNegative = 0.0
    mix_prob: UnitInterval = 1.0  # probability that MixUp or CutMix is done at all
    cutmix_prob: UnitInterval = 0.5  # share of CutMix where both are on
    mix_mode: Literal["pair", "batch"] = (
        "pair"  # what has a chance of its own: every pair of images, or the whole batch
    )
    repeated_aug: Positive = 1  # repeated augmentation: how often an image comes in a batch, each time augmented anew


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adamw", "lamb", "sgd", "muon"] = "adamw"
    lr: NonNegative | None = None
    weight_decay: NonNegative | None = None  # of linear and convolution weights only; None: 0.05, of denoisers 0
    betas: tuple[Fraction, Fraction] | None = None  # None: 0.9 0.999, of JiT 0.9 0.95
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.9  # of SGD and Muon
    schedule: Literal["cosine", "linear", "constant"] | None = None  # None: cosine, of denoisers constant
    warmup_steps: Count | None = None  # steps
    min_lr_ratio: UnitInterval = 0.0  # share of the rate that is left at the end
    clip_grad: NonNegative = 1.0  # largest norm of the gradient; 0: no clipping
    layer_decay: PositiveFloat = 1.0  # factor on the rate from each block to the one below
    freeze: Literal["none", "backbone"] | Count = "none"  # or how many blocks from the stem up
    unfreeze_steps: tuple[
        Count, ...
    ] = ()  # steps at which what is frozen begins to learn, in equal parts from the head down
    ema_decay: Fraction | None = None  # decay per step of the averaged weights; 0: off; None: off, of denoisers 0.9999
    ema_decay_2: Fraction | None = None  # of a second average beside it, for `vitrail sample --ema 2`; None: off


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, in which numbers."""

    epochs: PositiveFloat | None = None
    steps: Many | None = None  # instead of epochs
    batch_size: Many | None = None  # of all processes together
    seed: Seed = 0
    eval_every: Count | None = None  # steps; 0: only at the end
    patience: Count = (
        0  # stop after so many evaluations without a better one, and keep the best weights; 0: go to the end
    )
    start_size: Size | None = None  # progressive resolution: the size that training begins with ...; None: off
    full_size_at: UnitInterval = 0.8  # ... and the share of the steps after which input.size is reached
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # "auto": probed on this machine
    compile: bool = False


@dataclass(frozen=True)
class EvalConfig:
    """By what a model is evaluated beside its own metrics."""

    features: str = (
        ""  # of a generative model: a run of a classifier, by which evaluations also measure the Fréchet distance
    )


@dataclass(frozen=True)
class RuntimeConfig:
    """What may change when a run is resumed: none of it changes an image, their order or the rate, and without dropout and
    drop path none changes the result by more than rounding. Those draw their masks for a piece of the batch, and denoisers their noise,
    so other pieces, or another number of processes, draw others."""

    micro_batch: Positive | None = None  # images at once in each process; smaller ones are accumulated to the batch
    workers: Workers | None = None  # processes that read images; None: none for data in memory
    grad_checkpoint: bool = False  # compute activations again in the backward pass to save memory
    cache_images: bool = False  # keep decoded images in memory
    latents_dir: str = ""  # folder that latents are kept in; "": latents/ beside the folder of the run
    channels_last: bool = False  # the layout in memory that some machines' convolutions prefer
    log_every: Positive = 10
    save_every: Positive = 200
    keep_checkpoints: int = 2  # checkpoints, at least 2
    tensorboard: bool = False


@dataclass(frozen=True)
class Recipe:
    model: Choice = field(default_factory=Choice)
    data: DataConfig = field(default_factory=DataConfig)
    task: Choice = field(default_factory=Choice)
    init: InitConfig = field(default_factory=InitConfig)
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


DEFAULTS: dict[str, Any] = {
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "schedule": "cosine",
    "ema_decay": 0.0,
    "ema_decay_2": 0.0,
}  # what None is
SECTIONS = tuple(f.name for f in dataclasses.fields(Recipe))
CHOICES = ("model", "data", "task")
FREE_SECTIONS = ("runtime", "eval")

# What was called otherwise before: answered with its name of today.
RENAMED = {
    "start": "init", "plan": "train", "machine": "runtime", "start.source": "init.format", "input.resize": "input.resize_mode",
    "augment.resize": "augment.scale_jitter", "augment.flip": "augment.hflip", "augment.flip_vertical": "augment.vflip",
    "augment.randaugment": "augment.randaugment_ops", "augment.policy": "augment.auto_augment", "augment.jitter": "augment.color_jitter",
    "augment.erase": "augment.random_erasing", "augment.mix_share": "augment.mix_prob", "augment.mix_switch": "augment.cutmix_prob",
    "augment.mix_each": "augment.mix_mode", "augment.repeats": "augment.repeated_aug", "optim.kind": "optim.name",
    "optim.warmup": "optim.warmup_steps", "optim.final": "optim.min_lr_ratio", "optim.clip": "optim.clip_grad",
    "optim.unfreeze": "optim.unfreeze_steps", "optim.ema": "optim.ema_decay", "optim.ema2": "optim.ema_decay_2",
    "plan.batch": "train.batch_size", "plan.grow_from": "train.start_size", "plan.grow_until": "train.full_size_at",
    "plan.share": "data.fraction", "plan.sampling": "data.sampler", "plan.bad": "data.on_error", "plan.bad_budget": "data.max_errors",
    "plan.fingerprint": "data.fingerprint", "machine.micro": "runtime.micro_batch", "machine.cache": "runtime.cache_images",
    "machine.latents": "runtime.latents_dir", "machine.keep": "runtime.keep_checkpoints", "machine.judge": "eval.features",
    "data.truth": "data.annotation", "task.nothing": "task.no_object_weight",
}  # fmt: skip


def check_renamed(section: str, key: str = "", where: str = "") -> None:
    """Errors: `UsageError` for a section or key by the name that it had before."""
    full = f"{section}.{key.replace('-', '_')}" if key else section
    if full in RENAMED:
        raise UsageError(
            f"unknown {'key' if key else 'section'} {full}{where}; it is called {RENAMED[full]}",
            f"write {RENAMED[full]}",
        )
    if key:
        check_renamed(section, "", where)


def with_defaults(optim: OptimConfig) -> OptimConfig:
    """The same with what is usual in place of what is open, the rate and its warm-up left out."""
    return dataclasses.replace(optim, **{key: value for key, value in DEFAULTS.items() if getattr(optim, key) is None})


class Change(NamedTuple):
    key: str
    old: Any
    new: Any


def find(path: Path) -> Path:
    """A recipe file; where there is none of that name, the one that comes with vitrail: recipes/mini.toml, or mini.toml alone."""
    if path.exists() or path.parent.name not in ("", "recipes") or path.is_absolute():
        return path
    home = Path(__file__).parent
    come_with = (
        folder / path.name for folder in (home / "recipes", home.parent / "recipes")
    )  # in a wheel, in the repository
    return next((one for one in come_with if one.is_file()), path)


def read(path: Path) -> Recipe:
    """The recipe in a TOML file. Errors: `UsageError` with the line of a syntax error or the key that is wrong."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a recipe", "to train on a folder of images: vitrail train --data FOLDER"
        )
    if path.suffix != ".toml":
        raise UsageError(
            f"{path} is not a recipe, which is a .toml file", f"is it what to train on? vitrail train --data {path}"
        )
    if not path.is_file():
        near = nearest(path.name, there := sorted(p.name for p in path.absolute().parent.glob("*.toml")))
        raise UsageError(
            f"there is no recipe {path}", f"beside it: {', '.join(near or there[:5])}" if there else "check the path"
        )
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
        check_renamed(name, "", f" in {where}")
        choose(name, SECTIONS, "section", f"sections: {', '.join(SECTIONS)}", f" in {where}")
        if not isinstance(table, dict):
            raise UsageError(f"[{name}] in {where} is a section, not a value", f"write [{name}] and the keys below it")
        recipe = override(recipe, name, table)
    return recipe


def override(recipe: Recipe, section: str, keys: dict[str, Any]) -> Recipe:
    """The recipe with some keys of a section changed. Another name empties the keys that belonged to the old one; where none had
    been said yet, the keys were meant for whatever it would be."""
    for key in keys:
        check_renamed(section, key)
    old = getattr(recipe, section)
    if section not in CHOICES:
        return dataclasses.replace(recipe, **{section: update_config(old, keys, section)})
    rest = {k.replace("-", "_"): v for k, v in keys.items() if k != "name"}
    name = validate(keys.get("name", old.name), str, f"{section}.name")
    kept = old.keys if old.name in ("", name) else {}
    common = {f.name for f in dataclasses.fields(old)} - {"name", "keys"}
    old = update_config(old, {k: v for k, v in rest.items() if k in common}, section)
    own = {k: v for k, v in rest.items() if k not in common}
    changed: Any = {section: dataclasses.replace(old, name=name, keys={**kept, **own})}
    return dataclasses.replace(recipe, **changed)


def to_tables(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested tables that TOML and JSON can hold; what is None is left out."""
    tables = {}
    for name in SECTIONS:
        part = getattr(recipe, name)
        keys = dataclasses.asdict(part)
        keys |= keys.pop("keys", {})
        tables[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items() if v is not None}
    return tables


def changes(old: Recipe, new: Recipe) -> list[Change]:
    """Every key that differs and would change the result of a run."""
    a, b = to_tables(old), to_tables(new)
    found = []
    for section in SECTIONS:
        if section not in FREE_SECTIONS:
            for key in sorted({*a[section], *b[section]}):
                if a[section].get(key) != b[section].get(key):
                    found.append(Change(f"{section}.{key}", a[section].get(key), b[section].get(key)))
    return found
