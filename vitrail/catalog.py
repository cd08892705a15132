"""Names to modules: the folder is the registry.

`config("models", "vit/small")` imports `vitrail.models.vit` and returns its "small" config; `names("models")` lists every
variant by reading the source, so that a list costs no import. A name with a dot before the slash, such as
`mine.wavelets/base`, is a module from outside the house that has the same three parts.
"""

import ast
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from vitrail.errors import DataError, UsageError, pick


def rooms(floor: str) -> list[str]:
    """Every module on a floor, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / floor)]) if not m.name.startswith("_"))


def names(floor: str, only: str | None = None) -> list[str]:
    """Every variant on a floor, or of one module on it, as "module/variant", without importing any of them."""
    found = []
    for room in rooms(floor) if only is None else [pick(only, rooms(floor), f"name among the {floor}")]:
        spec = find_spec(f"vitrail.{floor}.{room}")
        if spec and spec.origin:
            found += [f"{room}/{variant}" for variant in variants(Path(spec.origin))]
    return found


def variants(file: Path) -> list[str]:
    """The keys of the table VARIANTS in a source file, in the order they stand."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VARIANTS" and isinstance(node.value, ast.Dict):
            return [str(k.value) for k in node.value.keys if isinstance(k, ast.Constant)]
    return []


def module(floor: str, name: str) -> ModuleType:
    """The module that a name stands for, whatever follows its slash."""
    room = name.partition("/")[0]
    if "." in room:
        try:
            return import_module(room)
        except ModuleNotFoundError as error:
            raise UsageError(f"there is no module {room!r} to import ({error})", "a name with a dot is a Python module of yours") from None
    return import_module(f"vitrail.{floor}.{pick(room, rooms(floor), f'name among the {floor}')}")


def config(floor: str, name: str) -> Any:
    """The default config that a name stands for."""
    if floor == "models" and "/" not in name and "." not in name:
        near = [n for n in names(floor) if n.startswith(f"{name}/") or n.endswith(f"/{name}")]
        if near:
            raise UsageError(f"{name!r} is not a whole name", f"did you mean {', '.join(near[:9])}?")
    found, variant = module(floor, name), name.partition("/")[2]
    if not variant:
        return found.Config()
    known = [f"{name.partition('/')[0]}/{v}" for v in found.VARIANTS]
    return found.VARIANTS[pick(name, known, "model").partition("/")[2]]


def layout(path: str) -> str:
    """The name of the data set layout that a path has. Errors: `DataError` where there is nothing, `UsageError` for a mistyped name."""
    for name in rooms("datasets"):
        if import_module(f"vitrail.datasets.{name}").matches(path):
            return name
    embedded = [n for n in rooms("datasets") if n == "mini"]
    if not Path(path).exists():
        if "/" not in path and "." not in path:
            pick(path, embedded, "data set", "or give the path of a folder of pictures")
        near = sorted(p.name for p in Path(path).absolute().parent.glob("*"))[:5] if Path(path).absolute().parent.exists() else []
        raise DataError(f"there is no {path}", f"beside it: {', '.join(near)}" if near else "check the path")
    raise DataError(
        f"{path} is not a data set that can be read",
        "known: a folder of class folders; a .csv or .tsv with columns path,label; a folder of IDX files; a MedMNIST .npz; 'mini'",
    )
