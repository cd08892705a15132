"""Names to modules: the folder is the registry.

`config("models", "vit/small")` imports `vitrail.models.vit` and returns its "small" config; `names("models")` lists every
variant by reading the source, so that a list costs no import. A name with a dot before the slash, such as
`mine.wavelets/base`, is a module from outside the house that has the same three parts.
"""

import ast
import contextlib
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from vitrail.errors import DataError, UsageError, choose, nearest
from vitrail.validation import as_path

KINDS = {
    "models": "model family", "datasets": "data set layout", "tasks": "task", "weights/tables": "table of published names",
    "studies": "study",
}  # fmt: skip

GENERAL = (
    "voc",
    "voc_masks",
    "masks",
    "imagefolder",
)  # layouts that may take what another takes for a better reason: asked last, so
WORDS = ("mini", "shapes", "shapes-boxes")  # data sets that are no path


class Entry(NamedTuple):
    """What a name stands for. config: the default one of the variant."""

    name: str
    module: ModuleType
    config: Any

    @property
    def kind(self) -> str:
        """Of a family, "backbone" or what KIND says in its source."""
        return str(vars(self.module).get("KIND", "backbone"))


def list_modules(floor: str) -> list[str]:
    """Every module on a floor, in alphabetical order."""
    return sorted(
        m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / floor)]) if not m.name.startswith("_")
    )


def list_names(floor: str, only: str | None = None) -> list[str]:
    """Every variant on a floor, or of one module on it, as "module/variant", without importing any of them."""
    found = []
    for room in list_modules(floor) if only is None else [check_name(floor, only)]:
        spec = find_spec(f"vitrail.{floor}.{room}")
        if spec and spec.origin:
            found += [f"{room}/{variant}" for variant in list_variants(Path(spec.origin))]
    return [choose(only, found, "model")] if only and "/" in only else found


def list_variants(file: Path) -> list[str]:
    """The keys of the table VARIANTS in a source file, in the order they stand."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "VARIANTS"
            and isinstance(node.value, ast.Dict)
        ):
            return [str(k.value) for k in node.value.keys if isinstance(k, ast.Constant)]
    return []


def check_name(floor: str, name: str) -> str:
    """The module on a floor that a name begins with. Errors: `UsageError` with the nearest names."""
    room, there = name.partition("/")[0], list_modules(floor)
    if room in there or floor != "models":
        return choose(room, there, KINDS[floor])
    whole = [n for n in list_names(floor) if room and room in n.split("/")] or (
        nearest(name, list_names(floor)) if "/" in name else []
    )
    return choose(
        room, there, KINDS[floor], f"whole names: {', '.join(whole)}" if whole else "vitrail models lists them all"
    )


def model_kind(name: str) -> str:
    """What the models of a family are: "backbone", or what KIND says in its source. `name`: of the family or one of its models."""
    room = name.partition("/")[0]
    return constant("models", room, "KIND") or "backbone" if room in list_modules("models") else "backbone"


def constant(floor: str, room: str, name: str) -> str:
    """The text that a module calls by a name, read from its source without importing it; "" where there is none."""
    spec = find_spec(f"vitrail.{floor}.{room}")
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body if spec and spec.origin else []:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if target is not None and ast.unparse(target) == name and isinstance(node.value, ast.Constant):  # type: ignore[attr-defined]
            return str(node.value.value)  # type: ignore[attr-defined]
    return ""


def default_task(annotations: str, kind: str) -> str:
    """The task that is taken for data with such annotations and models of a kind, where none is named; "" where there is none."""
    for room in list_modules("tasks"):
        if (constant("tasks", room, "ANNOTATIONS"), constant("tasks", room, "DEFAULT_FOR")) == (annotations, kind):
            return room
    return ""


def config_fields(floor: str, room: str) -> list[str]:
    """The fields of a module's `Config`, read from its source without importing it."""
    spec = find_spec(f"vitrail.{floor}.{room}")
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body if spec and spec.origin else []
    config = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == "Config"), None)
    return (
        [n.target.id for n in config.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        if config
        else []
    )


def read_docstring(floor: str, room: str) -> list[str]:
    """The paragraphs of a module's docstring, read from its source without importing it."""
    spec = find_spec(f"vitrail.{floor}.{room}")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
    return [" ".join(part.split()) for part in ((tree and ast.get_docstring(tree)) or "").split("\n\n")]


def read_published() -> dict[str, Any]:
    """What is known of the models without building them: "papers" by arXiv number, those of "families", and a row for each of "models"."""
    import tomllib

    return tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))


def load_module(floor: str, name: str) -> ModuleType:
    """The module that a name stands for, whatever follows its slash."""
    room = name.partition("/")[0]
    if "." in room.strip("."):
        try:
            found = import_module(room)
        except ImportError as error:
            raise UsageError(
                f"there is no module {room!r} to import ({error})", "a name with a dot is a Python module of yours"
            ) from None
        if lacking := [part for part in ("Config", "build") if part not in vars(found)]:
            raise UsageError(
                f"the module {room!r} has no {' and no '.join(lacking)}",
                f"a module of the {floor} has Config and build",
            )
        return found
    return import_module(f"vitrail.{floor.replace('/', '.')}.{check_name(floor, name)}")


def load_config(floor: str, name: str) -> Any:
    """The default config that a name stands for."""
    return find(floor, name).config


def find(floor: str, name: str) -> Entry:
    """What a name stands for. Errors: `UsageError` with the nearest names."""
    if not isinstance(name, str):
        raise UsageError(
            f"a name is a text such as 'vit/base', not a {type(name).__name__}", "vitrail models lists them all"
        )
    room, _, variant = name.partition("/")
    if floor == "models" and not variant and "." not in name:
        near = [n for n in list_names(floor) if room and room in n.split("/")] or nearest(name, list_names(floor))
        told = f"did you mean {', '.join(near[:9])}?" if near else "vitrail models lists them all"
        raise UsageError(f"{name!r} is not the whole name of a model", told)
    found = load_module(floor, name)
    if not variant:
        return Entry(name, found, found.Config())
    variants = vars(found).get("VARIANTS", {})
    return Entry(name, found, variants[choose(name, [f"{room}/{v}" for v in variants], "model").partition("/")[2]])


def detect_layout(path: str) -> str:
    """The name of the data set layout that a path has. Errors: `DataError` where there is nothing, `UsageError` for a mistyped name."""
    where = as_path(path)
    for name in sorted(list_modules("datasets"), key=lambda room: GENERAL.index(room) if room in GENERAL else -1):
        if import_module(f"vitrail.datasets.{name}").matches(path):
            if name == "imagefolder":
                refuse_tables(where)
            return name
    if not where.exists():
        if "/" not in path and "." not in path and nearest(path, WORDS):
            choose(path, WORDS, "data set", "or give the path of a folder of images")
        parent = where.absolute().parent
        there = sorted(p.name for p in parent.glob("*")) if parent.is_dir() else []
        near = nearest(where.name, there) or there[:5]
        raise DataError(
            f"there is no file or folder {path}",
            f"beside it: {', '.join(near)}" if near else f"there is no {parent} either",
        )
    raise DataError(
        f"{path} is not a data set that can be read",
        "known for classes: a folder of class folders; a .csv or .tsv with columns path,label; IDX files; a MedMNIST .npz; 'mini'\n"
        "for masks: folders images/ and masks/, ADE20K, Cityscapes, VOC, COCO; 'shapes'\n"
        "for boxes: a COCO .json, or a folder with one; a folder of VOC's XML, or of YOLO's text files; 'shapes-boxes'",
    )


def refuse_tables(folder: Path) -> None:
    """Errors: `DataError` for a folder without folders in which there is a file that could be meant."""
    with contextlib.suppress(OSError):  # what cannot be listed is told by whoever reads it
        inside = list(folder.iterdir())
        tables = sorted(p for p in inside if p.suffix.lower() in (".npz", ".csv", ".tsv"))
        if tables and not any(p.is_dir() for p in inside):
            names = ", ".join(p.name for p in tables[:5])
            raise DataError(f"{folder} holds no folders of images, but {names}", f"name the file: --data {tables[0]}")
