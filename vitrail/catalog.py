"""Names to modules: the folder is the registry.

`config("models", "vit/small")` imports `vitrail.models.vit` and returns its "small" config; `names("models")` lists
every variant by reading the source, so that a list costs no import. A name with a dot before the slash, such as
`mine.wavelets/base`, is a module outside vitrail that has the same three parts. It is imported where a person types it
(`import_typed`), and nowhere else: a name that a file has is only looked up.
"""

import ast
import contextlib
import pkgutil
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from vitrail.errors import DataError, UsageError, choose, nearest
from vitrail.foreign_names import answer, refuse_method
from vitrail.validation import as_path

KINDS = {
    "models": "model family", "datasets": "data set layout", "tasks": "task", "studies": "study",
    "inference/engines": "engine", "export/formats": "export format",
    "export/int8": "format with int8",
    "weights/tables": "table of published names", "weights/heads": "published model with a head",
}  # fmt: skip

FLOORS = {"model": "models", "task": "tasks", "data": "datasets"}  # of the sections of a recipe that name a module
GENERAL = ("voc", "voc_masks", "masks", "images", "imagefolder")  # tried last: they also match other layouts
WORDS = ("mini", "shapes", "shapes-boxes", "emoji")  # data sets that are no path


class Entry(NamedTuple):
    """A name, resolved. config: the default of the variant."""

    name: str
    module: ModuleType
    config: Any

    @property
    def kind(self) -> str:
        """Of a family, KIND in its source, or "backbone"."""
        return str(vars(self.module).get("KIND", "backbone"))


def list_modules(floor: str) -> list[str]:
    """Every module on a floor, in alphabetical order."""
    return sorted(
        m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / floor)]) if not m.name.startswith("_")
    )


def list_names(floor: str, only: str | None = None) -> list[str]:
    """Every variant on a floor, or of one module on it, as "module/variant", without importing any of them."""
    names = []
    for room in list_modules(floor) if only is None else [check_name(floor, only)]:
        spec = find_module(floor, room)
        if spec and spec.origin:
            names += [f"{room}/{variant}" for variant in list_variants(Path(spec.origin))]
    return [choose(only, names, "model")] if only and "/" in only else names


def list_variants(file: Path) -> list[str]:
    """The keys of the table VARIANTS in a source file, in the order they stand."""
    for node in parse_source(file).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "VARIANTS"
            and isinstance(node.value, ast.Dict)
        ):
            return [str(k.value) for k in node.value.keys if isinstance(k, ast.Constant)]
    return []


def check_name(floor: str, name: str) -> str:
    """The module on a floor that a name begins with. Errors: `UsageError` with the nearest names."""
    room, modules = name.partition("/")[0], list_modules(floor)
    if room in modules or floor != "models":
        return choose(room, modules, KINDS[floor])
    refuse_foreign_names(name)
    whole = [n for n in list_names(floor) if room and room in n.split("/")] or (
        nearest(name, list_names(floor)) if "/" in name else []
    )
    return choose(
        room, modules, KINDS[floor], f"whole names: {', '.join(whole)}" if whole else "vitrail models lists them all"
    )


def refuse_foreign_names(name: str) -> None:
    """Errors: `UsageError` for the name of a model in another library, with ours."""
    if reply := answer(name, list_names("models")):
        raise UsageError(reply.what, reply.fix)


def model_kind(name: str) -> str:
    """The kind of the models of a family: KIND in its source, or "backbone". `name`: of the family or one of its
    models."""
    room = name.partition("/")[0]
    return constant("models", room, "KIND") or "backbone" if room in list_modules("models") else "backbone"


def constant(floor: str, room: str, name: str) -> str:
    """The text constant of a name in a module, read from its source without importing it; "" where there is none."""
    spec = find_module(floor, room)
    for node in parse_source(Path(spec.origin)).body if spec and spec.origin else []:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        value = node.value if isinstance(node, ast.AnnAssign | ast.Assign) else None
        if target is not None and ast.unparse(target) == name and isinstance(value, ast.Constant):
            return str(value.value)
    return ""


def default_task(annotations: str, kind: str) -> str:
    """The default task for data with such annotations and models of a kind; "" where there is none."""
    for room in list_modules("tasks"):
        if (constant("tasks", room, "ANNOTATIONS"), constant("tasks", room, "DEFAULT_FOR")) == (annotations, kind):
            return room
    return ""


def config_fields(floor: str, room: str) -> list[str]:
    """The fields of a module's `Config`, read from its source without importing it."""
    return list(config_types(floor, room))


def config_types(floor: str, room: str) -> dict[str, str]:
    """The fields of a module's `Config` and their types as its source has them, without importing it."""
    spec = find_module(floor, room)
    body = parse_source(Path(spec.origin)).body if spec and spec.origin else []
    config = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == "Config"), None)
    return {
        n.target.id: ast.unparse(n.annotation)
        for n in (config.body if config else [])
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }


def takes_texts(floor: str, key: str) -> bool:
    """Whether a key of some module on a floor is a list of texts of any length, such as names of classes."""
    texts = "tuple[str, ...]"
    return any(
        texts in read_source(floor, room) and texts in config_types(floor, room).get(key, "")  # parsing takes long
        for room in list_modules(floor)
    )


def find_module(floor: str, room: str) -> ModuleSpec | None:  # without importing it
    return find_spec(f"vitrail.{floor.replace('/', '.')}.{room}")


def read_source(floor: str, room: str) -> str:
    spec = find_module(floor, room)
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


def parse_source(file: Path) -> ast.Module:
    """The syntax tree of a source file, parsed again only where the file has changed. Errors: those of `ast.parse` and
    of reading."""
    return _parsed(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _parsed(file: Path, changed: int) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8", errors="surrogateescape"))


def read_docstring(floor: str, room: str) -> list[str]:
    """The paragraphs of a module's docstring, read from its source without importing it."""
    spec = find_module(floor, room)
    tree = parse_source(Path(spec.origin)) if spec and spec.origin else ast.Module([], [])
    return [" ".join(part.split()) for part in (ast.get_docstring(tree) or "").split("\n\n")]


def read_published() -> dict[str, Any]:
    """The facts about published models: "papers" by arXiv number, those of "families", and a row for each of
    "models"."""
    import tomllib

    return tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))


def load_module(floor: str, name: str) -> ModuleType:
    """The module of a name, whatever follows its slash: one of the package, or one of the user's that is imported
    already. Nothing else is imported here, since the name may come from a file. Errors: `UsageError`."""
    room = name.partition("/")[0]
    if is_dotted(name):
        if (module := sys.modules.get(room)) is None:
            if floor == "models":
                refuse_foreign_names(name)  # as in timm's resnet50.a1_in1k
            raise UsageError(
                f"{room!r} is no {KINDS[floor]} of vitrail, and a module that a file names is never imported",
                f"if it is yours and you trust it, name it yourself: --module {room}, or in Python: import {room}",
            )
        if lacking := [part for part in ("Config", "build") if part not in vars(module)]:
            raise UsageError(
                f"the module {room!r} has no {' and no '.join(lacking)}",
                f"a module of the {floor} has Config and build",
            )
        return module
    return import_module(f"vitrail.{floor.replace('/', '.')}.{check_name(floor, name)}")


def is_dotted(name: str) -> bool:
    """Whether a name is that of a module outside vitrail, with a dot before the slash."""
    return "." in name.partition("/")[0].strip(".")


def import_typed(name: str, floor: str = "models") -> None:
    """Imports the module of a name with a dot, which a person has typed, so that `load_module` finds it; other names
    are left alone. Errors: `UsageError` where there is no such module."""
    if not (isinstance(name, str) and is_dotted(name)):
        return
    room = name.partition("/")[0]
    try:
        import_module(room)
    except (ImportError, ValueError, TypeError) as error:
        if floor == "models":
            refuse_foreign_names(name)
        raise UsageError(
            f"there is no module {room!r} to import ({error})", "a name with a dot is a Python module of yours"
        ) from None


def load_config(floor: str, name: str) -> Any:
    """The default config of a name."""
    return find(floor, name).config


def find(floor: str, name: str) -> Entry:
    """The entry of a name. Errors: `UsageError` with the nearest names."""
    if not isinstance(name, str):
        what = f"a name is a text such as 'vit/base', not a {type(name).__name__}"
        raise UsageError(what, "vitrail models lists them all")
    room, _, variant = name.partition("/")
    if floor == "models" and not variant and "." not in name:
        refuse_foreign_names(name)
        near = [n for n in list_names(floor) if room and room in n.split("/")] or nearest(name, list_names(floor))
        fix = f"did you mean {', '.join(near[:9])}?" if near else "vitrail models lists them all"
        raise UsageError(f"{name!r} is not the whole name of a model", fix)
    refuse_method(floor, name, list_modules("tasks"))
    module = load_module(floor, name)
    if not variant:
        return Entry(name, module, module.Config())
    variants = vars(module).get("VARIANTS", {})
    return Entry(name, module, variants[choose(name, [f"{room}/{v}" for v in variants], "model").partition("/")[2]])


def list_layouts(path: str) -> Iterator[str]:
    """The names of the layouts that a path fits, the one that it is read as first."""
    for name in sorted(list_modules("datasets"), key=lambda room: GENERAL.index(room) if room in GENERAL else -1):
        if import_module(f"vitrail.datasets.{name}").matches(path):
            yield name


def detect_layout(path: str) -> str:
    """The name of the layout of a data set. Errors: `DataError` for a missing path, `UsageError` for a mistyped
    name."""
    target = as_path(path)
    for name in list_layouts(path):
        if name in ("images", "imagefolder"):
            refuse_tables(target)
        return name
    if not target.exists():
        if "/" not in path and "." not in path and nearest(path, WORDS):
            choose(path, WORDS, "data set", "or give the path of a folder of images")
        parent = target.absolute().parent
        siblings = sorted(p.name for p in parent.glob("*")) if parent.is_dir() else []
        near = nearest(target.name, siblings) or siblings[:5]
        raise DataError(
            f"there is no file or folder {path}",
            f"beside it: {', '.join(near)}" if near else f"there is no {parent} either",
        )
    raise DataError(
        f"{path} is not a data set that can be read",
        "for classes: a folder of class folders; a .csv or .tsv with path,label; IDX files; a MedMNIST .npz; 'mini'\n"
        "for masks: folders images/ and masks/, ADE20K, Cityscapes, VOC, COCO; 'shapes'\n"
        "for boxes: a COCO .json, or a folder with one; a folder of VOC's XML, or of YOLO's text files; 'shapes-boxes'"
        "\nfor captions: a .txt beside each image; a .csv or .jsonl with image,caption; COCO's captions; 'emoji'",
    )


def refuse_tables(folder: Path) -> None:
    """Errors: `DataError` for a folder that has no folders of images but a file that may be the data set."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed is reported by its reader
        inside = list(folder.iterdir())
        tables = sorted(p for p in inside if p.suffix.lower() in (".npz", ".csv", ".tsv", ".jsonl"))
        if tables and not any(p.is_dir() for p in inside):
            names = ", ".join(p.name for p in tables[:5])
            raise DataError(f"{folder} holds no folders of images, but {names}", f"name the file: --data {tables[0]}")
