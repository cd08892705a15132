"""YOLO's data.yaml: class names and the folders or lists of each part. Every value is read as text, as it stands."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.data.annotations.pairs import read_text
from vitrail.data.splits import find_part
from vitrail.errors import DataError

LARGEST = 2**20  # bytes of a data.yaml
DEEPEST = 16  # levels of lists and mappings
KEYS = ("path", "names", "nc", "kpt_shape")  # and those of parts
FORM = "the file has lines such as train: images/train and names: [cat, dog]"
NUMBERED = "number the classes 0, 1, 2, ..."


def read_settings(path: Path) -> dict[str, list[str]]:
    """The keys path, names, nc, kpt_shape and those of parts (train, val, test), each as a list of texts.

    Class names stand in the order of their numbers. Errors: `DataError` with the line number.
    """
    root = parse(path)
    settings: dict[str, list[str]] = {}
    for key, node in pairs_of(path, root):
        if key.value == "names":
            settings["names"] = read_names(path, node)
        elif key.value in KEYS or (find_part(key.value) and key.value.isidentifier()):
            settings[key.value] = read_list(path, node)
    names = settings.get("names", [])
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two classes have the same name", "give each class a name of its own")
    return settings


def parse(path: Path) -> Any:
    """The document as nodes of PyYAML, which know their lines: nothing is constructed, so a class called "no" or "007"
    stays what it is, and aliases are not expanded. Errors: `DataError`."""
    import yaml

    loader = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
    text = read_text(path, LARGEST).decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise DataError(f"{path}, line {event.start_mark.line + 1}: lists in lists in lists", FORM)
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        begun = error.context_mark if "block" not in str(error.context) else None  # where a list or a key begins
        mark = begun or error.problem_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        why = " ".join(str(error.problem or error.context).split())[:120]
        quotes = "; paths with a \\ stand in 'single' quotes" if "\\" in text else ""
        raise DataError(f"{where}: {why}", FORM + quotes) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())[:120]}", FORM) from None
    if not isinstance(root, yaml.MappingNode):
        raise DataError(f"{path} has no keys", FORM)
    return root


def pairs_of(path: Path, node: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a mapping, all keys scalars and each there once. Errors: `DataError`."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise DataError(f"{path}, line {line}: a key is a list", FORM)
        if key.value in seen:
            raise DataError(f"{path}, line {line}: {key.value[:60]!r} stands in line {seen[key.value]} too", FORM)
        seen[key.value] = line
    return list(node.value)


def read_list(path: Path, node: Any) -> list[str]:
    """One text or a list of them; empty for null. Errors: `DataError`."""
    items = [node] if node.id == "scalar" else node.value
    for item in items:
        if node.id == "mapping" or item.id != "scalar":
            raise DataError(f"{path}, line {node.start_mark.line + 1}: neither a text nor a list of texts", FORM)
    return [item.value.strip() for item in items if not (item.style is None and is_null(item.value))]


def is_null(text: str) -> bool:
    """Whether plain text stands for nothing."""
    return text.strip().lower() in ("", "~", "null")


def read_names(path: Path, node: Any) -> list[str]:
    """Class names, from a list, a mapping of numbers to names or of names to numbers, or a file. Errors:
    `DataError`."""
    line = node.start_mark.line + 1
    if node.id == "scalar":
        if is_null(node.value):
            return []
        file = path.parent / node.value
        if not file.is_file():
            raise DataError(
                f"{path}, line {line}: names is {node.value[:60]!r}", "names: [cat, dog], or the name of a file"
            )
        lines = read_text(file, LARGEST).decode("utf-8-sig", errors="replace").splitlines()
        return [name.strip() for name in lines if name.strip()]
    values = node.value if node.id == "sequence" else [value for _, value in pairs_of(path, node)]
    for value in values:
        if value.id != "scalar":
            raise DataError(f"{path}, line {value.start_mark.line + 1}: a class name is a {value.id}", FORM)
    if node.id == "sequence":
        return [value.value.strip() for value in values]
    texts = {key.value.strip(): value.value.strip() for key, value in node.value}
    if texts and not any(is_number(key) for key in texts) and all(is_number(value) for value in texts.values()):
        return in_order(path, line, {number: name for name, number in texts.items()}, len(texts))
    return in_order(path, line, texts, len(texts))


def is_number(text: str) -> bool:
    """Whether a text is a class number."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def in_order(path: Path, line: int, names: Mapping[str, str], count: int) -> list[str]:
    """Names by class number in the order of the numbers, which are 0, 1, 2, ... Errors: `DataError`."""
    if wrong := next((key for key in names if not is_number(key)), ""):
        raise DataError(f"{path}, line {line}: {wrong[:60]!r} is no class number", NUMBERED)
    by_number = {int(key): name for key, name in names.items()}
    for expected, number in enumerate(sorted(by_number)):
        if number != expected:
            raise DataError(f"{path}, line {line}: class {number} is listed instead of {expected}", NUMBERED)
    if len(by_number) < count:
        raise DataError(f"{path}, line {line}: two classes have the same number", NUMBERED)
    return [by_number[i] for i in range(len(by_number))]
