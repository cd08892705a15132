"""What lies beside published tensors: config.json and preprocessor_config.json as transformers and timm write them, and
open_clip_config.json.

It is data from outside: read within bounds, checked value by value when it is asked for, never imported or executed,
and nothing is built of a size that only it claims.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from vitrail.errors import CheckpointError, UsageError
from vitrail.storage.json_text import from_json
from vitrail.validation import format_value, validate

Writer = Literal["timm", "transformers", "diffusers", "open_clip", "vitrail", ""]
LONGEST = 16 * 2**20  # bytes; the names of 21,843 classes take one
MOST_VALUES = 2**18  # numbers and texts in one file
LONGEST_NAME = 1000  # characters of a class name
Whole = Annotated[int, Gt(0), Le(2**16)]
CountOf = Annotated[int, Ge(0), Le(2**16)]
Pixels = Annotated[int, Gt(0), Le(2**14)]
Small = Annotated[float, Gt(0), Lt(1)]  # an epsilon
Ratio = Annotated[float, Gt(0), Le(1000)]
SIDECAR_FIX = "correct it, or remove it: the tensors say most of it"
# where a config has that of its image model
PARTS = ("", "vision_config.", "backbone_config.", "model_cfg.vision_cfg.")
CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
KINDS = ("architecture", "model_type", "_class_name", "timm_model_name")  # names of fields that name a model


ARGS = {  # of timm's `model_args`: read here, shown by the tensors, or of training alone
    "act_layer", "attn_drop_rate", "block_args", "class_token", "crop_scale", "depth", "depths", "drop_block_rate",
    "drop_path_rate", "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "fc_norm",
    "features_only", "final_norm", "fix_init", "global_pool", "head_dim", "head_widths", "img_scale", "img_size",
    "in_chans", "init_values", "kernels", "layers", "linear", "mlp_ratio", "mlp_ratios", "multi_conv", "no_embed_class",
    "num_classes", "num_heads", "out_indices", "patch_drop_rate", "patch_size", "pos_drop_rate", "pos_embed",
    "pre_norm", "pretrained_window_sizes", "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens", "sr_ratios",
    "stem_width", "strict_img_size", "swiglu_mlp", "weight_init", "widths", "window_size", "zero_init_last",
}  # fmt: skip


@dataclass(frozen=True)
class Sidecar:
    """The files beside tensors, as plain JSON. writer: the library that wrote them; where: the folder, and
    file: the name of the first of them, for messages; certain: whether they are of these tensors, and not only in the
    same folder."""

    writer: Writer = ""
    config: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    certain: bool = True
    file: str = CONFIG

    def get(self, kind: Any, *names: str) -> Any:
        """The first of the names in config.json that has a value, checked to be of a kind; None where none has. A dot
        goes one object deeper. Errors: `CheckpointError` that names the field."""
        return self.find(kind, names)[1]

    def find(self, kind: Any, names: Iterable[str]) -> tuple[str, Any]:
        """The same with the name that it was found by, "" where there is none."""
        for part in PARTS:
            for name in names:
                if (value := look_up(self.config, part + name)) is not None:
                    return part + name, checked(value, kind, self.path_of(part + name))
        return "", None

    def path_of(self, name: str) -> str:
        """The name of a field of config.json in messages."""
        return f"{name} in {Path(self.where) / self.file if self.where else self.file}"

    @property
    def kind(self) -> str:
        """What the files call the model: transformers' model_type, timm's architecture; "" for neither."""
        return str(self.get(str, *KINDS) or "")

    def class_names(self, count: int) -> tuple[str, ...] | None:
        """The names of so many classes; None where there are none, or only numbers. A name that stands twice gets its
        number. Errors: `CheckpointError` for names that are no text, or for another number of classes."""
        names = self.listed_names()
        if names is None or all(n == f"LABEL_{i}" for i, n in enumerate(names)):
            return None
        if len(names) != count:
            if self.config.get("id2label") is not None and self.writer == "timm":
                return None
            if not {"id2label", "label_names"} & self.config.keys():
                return None  # the names by number are what counts
            what = f"{self.path_of('id2label')} names {len(names):,} classes, and the head has {count:,}"
            raise CheckpointError(what, "it belongs to other weights: remove it, or bring the one of these weights")
        return unique_names(names)

    def listed_names(self) -> list[str] | None:
        """The class names as they stand, in the order of the classes."""
        table, rows = self.config.get("id2label"), self.config.get("label_names")
        where = self.path_of("id2label" if rows is None else "label_names")
        if isinstance(rows, list):
            return [checked_name(name, where) for name in rows]
        if table is None:
            return invert_names(self.config.get("label2id"), self.path_of("label2id"))
        if not isinstance(table, dict) or {str(i) for i in range(len(table))} != set(table):
            raise CheckpointError(f"{where} is not a table of the numbers from 0 up", "remove it from config.json")
        return [checked_name(table[str(i)], where) for i in range(len(table))]


def invert_names(table: Any, where: str) -> list[str] | None:
    """The class names of a table of numbers by name; None for one that is not of the numbers from 0 up."""
    if not isinstance(table, dict) or {str(v) for v in table.values()} != {str(i) for i in range(len(table))}:
        return None
    names = {str(number): name for name, number in table.items()}
    return [checked_name(names[str(i)], where) for i in range(len(names))]


def check_args(sidecar: Sidecar) -> None:
    """Errors: `CheckpointError` for an option of timm that may change what a model computes and is not known here."""
    args = sidecar.config.get("model_args") if sidecar.writer == "timm" else None
    if args is not None and not isinstance(args, dict):
        raise CheckpointError(f"{sidecar.path_of('model_args')} is no object", "correct it, or remove the file")
    for name in args or ():
        if name not in ARGS:
            what = f"{sidecar.path_of(f'model_args.{name[:60]}')} is an option that is not known here"
            raise CheckpointError(what, "remove it from the file if the model computes the same without it")


def look_up(table: Any, name: str) -> Any:
    """The value of a dotted name in nested objects; None where there is none."""
    for part in name.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    return table


def checked(value: Any, kind: Any, where: str) -> Any:
    """A value of a kind. Errors: `CheckpointError` that names its field."""
    try:
        return validate(value, kind, where)
    except UsageError as error:
        raise CheckpointError(error.what, "correct it, or remove the file: the tensors say the rest") from None


def checked_name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        shown = format_value(name) if isinstance(name, str | int | float) else f"a {type(name).__name__}"
        raise CheckpointError(f"a class in {where} is called {shown[:80]}", "remove the names of classes from it")
    return name


def unique_names(names: list[str]) -> tuple[str, ...]:
    """The names, each once: one that stands twice, as "crane" in ImageNet, gets the number of its class."""
    seen: set[str] = set()
    result = []
    for i, name in enumerate(names):
        given = name if name not in seen else f"{name} ({i})"
        while given in seen:
            given += "'"
        seen.add(given)
        result.append(given)
    return tuple(result)


def read_sidecar(folder: Path, weights: str = "") -> Sidecar:
    """What lies in a folder beside its tensors. weights: the name of their file, since a folder may have the same model
    twice, as OpenCLIP and as others write it. Errors: `CheckpointError` for files that are not plain JSON."""
    has_others = (folder / CONFIG).is_file() and not weights.startswith("open_clip")
    file = OPEN_CLIP if (folder / OPEN_CLIP).is_file() and not has_others else CONFIG
    config = read_object(folder / file)
    preprocessing = read_object(folder / "preprocessor_config.json") if file == CONFIG else {}
    return Sidecar(writer_of(config, preprocessing), config, preprocessing, str(folder), file=file)


def reads_texts(sidecar: Sidecar) -> bool:
    """Whether a model has a text tower beside that of images."""
    return any(isinstance(look_up(sidecar.config, name), dict) for name in ("text_config", "model_cfg.text_cfg"))


def writer_of(config: dict[str, Any], preprocessing: dict[str, Any]) -> Writer:
    """Whose files these are."""
    if isinstance(config.get("model_cfg"), dict):
        return "open_clip"
    if "architecture" in config or "pretrained_cfg" in config:
        return "timm"  # also where transformers wraps a model of timm
    if "_diffusers_version" in config or "_class_name" in config:
        return "diffusers"
    return "transformers" if preprocessing or {"model_type", "architectures"} & config.keys() else ""


def read_object(path: Path, fix: str = SIDECAR_FIX) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file. fix: what helps where it is damaged."""
    try:
        if not path.is_file():
            return {}
        if (size := path.stat().st_size) > LONGEST:
            raise CheckpointError(f"{path} has {size:,} bytes, more than {LONGEST:,}", fix)
        value = from_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {str(error)[:120]}", fix) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not an object of JSON", fix)
    try:
        count = count_values(value)
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply", fix) from None
    if count > MOST_VALUES:
        raise CheckpointError(f"{path} has {count:,} values, more than {MOST_VALUES:,}", fix)
    return value


def count_values(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_values, inside))
