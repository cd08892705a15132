"""A whole run as data: a TOML file and the words of a command line become one frozen `Recipe`.

    vitrail train recipes/mini.toml --model.depth 6 --lr 1e-3

None means "chosen from the data when the run starts"; the choice is printed with its reason and saved. The sections
`model`, `data` and `task` name a module and have keys for its `Config`; the others are here.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

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
    check_renamed,
    update_config,
    validate,
)

Side = Annotated[int, Gt(0), Le(16_384)]  # pixels
Size = tuple[Side, Side]
T = TypeVar("T", "OptimConfig", "InputConfig")
CropRatio = Annotated[float, Ge(0.1), Le(4)]  # of the shorter side; images are resized to size / crop_ratio
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Many = Annotated[int, Ge(1), Le(10**9)]  # so that the product of two fits into 64 bits
Workers = Annotated[int, Ge(0), Le(256)]


@dataclass(frozen=True)
class Choice:
    """A module by name, and values for the fields of its `Config`."""

    name: str = ""  # empty: chosen from the data
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig(Choice):
    """A data set: its layout and the keys of that layout, and keys that every layout has."""

    fraction: Annotated[float, Gt(0), Le(1)] = 1.0  # of the training images of every class, sampled by the seed
    val_fraction: Fraction | None = None  # of the training images, held out as val where the data has none; 0: none
    sampler: Literal["shuffle", "balanced", "windowed"] = "shuffle"  # every class equally often; shards without seeks
    on_error: Literal["fail", "skip"] = "skip"  # an image that cannot be read: left out and listed, or no run starts
    max_errors: UnitInterval = 0.05  # largest fraction of images left out; of a small set 3 always, but with 0
    fingerprint: Literal["stat", "content"] = "stat"  # how changes of the data set are detected


@dataclass(frozen=True)
class InitConfig:
    """The weights before the first step; random by default."""

    weights: str = ""  # a run, a model folder, a file, or the name of published weights
    format: str = "auto"  # naming scheme of the file: "timm", "transformers", ...
    head: Literal["auto", "keep", "new"] = "auto"  # "auto": kept if the classes are the same
    accept_licence: str = ""  # of weights whose use it restricts, by its name
    fit_head: bool | None = None  # a new head starts as the linear probe of its features; None: where optim.lr is open


@dataclass(frozen=True)
class InputConfig:
    """The preprocessing of images. It is saved with the model."""

    size: Size | None = None  # height and width in pixels
    channels: Count = 0  # 1, 3 or more; 0: as the data has
    mean: tuple[UnitInterval, ...] | None = None  # per channel in [0, 1]; None: measured on the training part
    std: tuple[PositiveFloat, ...] | None = None
    resize_mode: Literal["stretch", "crop", "fit", "slide", "tile"] | None = None  # "slide", "tile": masks and boxes
    crop_ratio: CropRatio | None = None  # None, here and below: as the initial weights, else 0.875
    interpolation: Literal["bilinear", "bicubic"] | None = None  # else bilinear
    background: tuple[Byte, Byte, Byte] | None = None  # under transparent pixels; else white, 255 255 255
    vae: str | None = None  # generative models: folder of a diffusers AutoencoderKL, for latents; None: pixels
    vae_hash: str | None = None  # of its weights and config; None: not checked


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation in training, random as a function of (seed, epoch, image)."""

    crop: Literal["none", "pad", "random"] | None = None  # "pad": shift by up to `pad` pixels; "random": resized crop
    pad: Count = 2
    scale: tuple[UnitInterval, UnitInterval] = (0.35, 1.0)  # area of a random crop as a fraction of the image
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.5)  # masks and boxes: resize before the crop
    mosaic: UnitInterval = 0.0  # masks and boxes: probability of a mosaic of four images
    hflip: bool | None = None  # random horizontal flip
    vflip: bool = False  # random vertical flip
    rotate90: bool = False  # masks and boxes: turned by 0, 90, 180 or 270 degrees, as of images from above
    randaugment_ops: Count = 0  # operations per image
    magnitude: Annotated[int, Ge(0), Le(30)] = 9  # of RandAugment, 0 to 30
    auto_augment: Literal["none", "autoaugment", "trivialaugment", "3-augment"] = "none"  # instead of RandAugment
    color_jitter: NonNegative = 0.0  # of brightness, contrast and saturation
    random_erasing: UnitInterval = 0.0  # probability of erasing a rectangle
    mixup: NonNegative = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: NonNegative = 0.0
    mix_prob: UnitInterval = 1.0  # probability of MixUp or CutMix
    cutmix_prob: UnitInterval = 0.5  # probability of CutMix where both are on
    mix_mode: Literal["pair", "batch"] = "pair"  # sampled for every pair of images, or once a batch
    reduced_decode: bool = False  # classes: JPEGs at 1/2, 1/4 or 1/8 of their size where that is enough
    repeated_aug: Positive = 1  # copies of an image in a batch, each augmented on its own


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adamw", "lamb", "sgd", "muon"] | None = None  # None: adamw, muon for classes from random weights
    lr: NonNegative | None = None
    weight_decay: NonNegative | None = None  # of linear and convolution weights only; None: 0.05, 0 for denoisers
    betas: tuple[Fraction, Fraction] | None = None  # None: 0.9 0.999, 0.9 0.95 for JiT
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.9  # of SGD and Muon
    schedule: Literal["cosine", "linear", "constant"] | None = None  # None: cosine, constant for denoisers
    warmup_steps: Count | None = None
    min_lr_ratio: UnitInterval = 0.0  # final learning rate as a fraction of the peak
    clip_grad: NonNegative = 1.0  # maximum gradient norm; 0: no clipping
    layer_decay: PositiveFloat | None = None  # factor on the lr from each block to the one below; None: 1, or transfer
    freeze: Literal["none", "backbone"] | Count | None = None  # blocks from the stem up; None: none, or transfer
    unfreeze_steps: tuple[Count, ...] | None = None  # at which equal parts unfreeze, from the head down; None: never
    ema_decay: Fraction | None = None  # decay per step of the averaged weights; 0: off; None: off, 0.9999 for denoisers
    ema_decay_2: Fraction | None = None  # of a second average, for `vitrail sample --ema 2`; None: off


@dataclass(frozen=True)
class TrainConfig:
    """Duration, batch size, evaluation and precision."""

    epochs: PositiveFloat | None = None
    steps: Many | None = None  # instead of epochs
    batch_size: Many | None = None  # of all processes together
    seed: Seed = 0
    eval_every: Count | None = None  # steps; 0: only at the end
    patience: Count = 0  # early stopping: evaluations without improvement, then keep the best weights; 0: off
    start_size: Size | None = None  # progressive resizing: the size at the first step; None: off
    full_size_at: UnitInterval = 0.8  # progressive resizing: the fraction of the steps at which input.size is reached
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # "auto": by the device, and on a CPU by the model
    compile: bool = False


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation beyond the metrics of the task."""

    features: str = ""  # generative models: a classifier run, whose features give the Fréchet distance


@dataclass(frozen=True)
class RuntimeConfig:
    """Settings that may change on resuming: none changes the images, their order, the learning rate, or the result by
    more than rounding, but for dropout, drop path and a denoiser's noise, by micro-batches and processes."""

    micro_batch: Positive | None = None  # images at a time in each process; gradients are accumulated to the batch size
    workers: Workers | None = None  # processes that read images; None: none for data in memory
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"  # of several processes; auto: by memory
    grad_checkpoint: bool | Literal["none", "selective", "full"] = False  # recompute activations; true: all of them
    cache_images: bool = False  # keep decoded images in memory
    cache_features: bool | None = None  # frozen backbone: train on features computed once; None: if nothing is random
    latents_dir: str = ""  # folder of the cached latents; empty: latents/ beside the run
    channels_last: bool = False  # memory format that is faster for convolutions on some machines
    log_every: Positive = 10
    save_every: Positive = 200
    keep_checkpoints: int = 2  # at least 2
    async_checkpoint: bool = False  # write checkpoints while training goes on, from a copy of the state in memory
    tensorboard: bool = False  # logs for TensorBoard in the folder of the run
    wandb: bool = False  # Weights & Biases; offline unless WANDB_MODE is online
    mlflow: bool = False  # MLflow; in mlflow.db unless MLFLOW_TRACKING_URI is set
    threads: Positive | None = None  # of torch on the CPU: sums are rounded by their number; None: torch's choice
    timeout: PositiveFloat = 60.0  # seconds without a sign of life of workers or other processes that end the run


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


DEFAULTS: dict[str, Any] = {  # the values of None
    "name": "adamw", "weight_decay": 0.05, "betas": (0.9, 0.999), "schedule": "cosine",
    "ema_decay": 0.0, "ema_decay_2": 0.0, "layer_decay": 1.0, "freeze": "none", "unfreeze_steps": (),
    "crop_ratio": 0.875, "interpolation": "bilinear", "background": (255, 255, 255),
}  # fmt: skip
SECTIONS = tuple(f.name for f in dataclasses.fields(Recipe))
CHOICES, FREE_SECTIONS = ("model", "data", "task"), ("runtime", "eval")


def with_defaults(part: T) -> T:
    """The section `optim` or `input` with the defaults in place of None, except for what depends on the data."""
    keys = {key: value for key, value in DEFAULTS.items() if vars(part).get(key, value) is None}
    return dataclasses.replace(part, **keys)


class Change(NamedTuple):
    key: str
    old: Any
    new: Any


def find(path: Path) -> Path:
    """A recipe file, or the packaged recipe of that name: recipes/mini.toml, or mini.toml alone."""
    if path.exists() or path.parent.name not in ("", "recipes") or path.is_absolute():
        return path
    packaged = (folder / "recipes" / path.name for folder in Path(__file__).parents[:2])  # in a wheel, in git
    return next((file for file in packaged if file.is_file()), path)


def read(path: Path) -> Recipe:
    """The recipe in a TOML file. Errors: `UsageError` with the line of a syntax error or the key that is wrong."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a recipe", "to train on its images: vitrail train --data FOLDER")
    if path.suffix != ".toml":
        what = f"{path} is not a recipe, which is a .toml file"
        raise UsageError(what, f"is it what to train on? vitrail train --data {path}")
    if not path.is_file():
        near = nearest(path.name, existing := sorted(p.name for p in path.absolute().parent.glob("*.toml")))
        raise UsageError(
            f"there is no recipe {path}",
            f"beside it: {', '.join(near or existing[:5])}" if existing else "check the path",
        )
    try:
        text = path.read_bytes().decode(errors="surrogateescape")  # paths in it may be no UTF-8
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        if any("\udc80" <= ch <= "\udcff" for ch in text):
            what = f"{path} is not a recipe: it is not UTF-8 text"
            raise UsageError(what, "a recipe is TOML: [section] lines and key = value lines") from None
        raise UsageError(
            f"{path} is not TOML: {error}", 'a recipe has lines [section] and key = value; texts stand in quotes "..."'
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None
    return from_tables(tables, str(path))


def from_tables(tables: dict[str, Any], where: str = "the recipe") -> Recipe:
    """A recipe from nested tables, as parsed from TOML."""
    recipe = Recipe()
    for name, table in tables.items():
        check_renamed(name, "", f" in {where}")
        choose(name, SECTIONS, "section", f"sections: {', '.join(SECTIONS)}", f" in {where}")
        if not isinstance(table, dict):
            raise UsageError(f"[{name}] in {where} is a section, not a value", f"write [{name}] and the keys below it")
        recipe = override(recipe, name, table)
    return recipe


def override(recipe: Recipe, section: str, keys: dict[str, Any]) -> Recipe:
    """The recipe with some keys of a section changed. A new name drops the keys of the old one; keys that
    were given before any name are kept."""
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
    different = []
    for section in SECTIONS:
        if section not in FREE_SECTIONS:
            for key in sorted({*a[section], *b[section]}):
                if a[section].get(key) != b[section].get(key):
                    different.append(Change(f"{section}.{key}", a[section].get(key), b[section].get(key)))
    return different
