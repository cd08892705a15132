"""Files of weights and run folders whose descriptions are changed, and then packed again as honest ones are."""

import json
import shutil
from pathlib import Path

import vitrail
from vitrail.storage.atomic import MANIFEST, manifest
from vitrail.storage.tensors import pack, unpack

ODD = (
    None,
    True,
    -1,
    0,
    3,
    2**40,
    2**63,
    1e300,
    "",
    "x",
    "../x",
    "a.b/c",
    [],
    [[]],
    ["x"],
    [None],
    [2**40, 4],
    {},
    {"x": {}},
)


def model_folder(folder: Path) -> Path:
    """A small classifier as `vitrail.save` writes it."""
    made = vitrail.create("vit/nano", classes=3, channels=1, size=(12, 12), patch=4, depth=1, width=16, heads=2)
    return vitrail.save(made, folder, ["ant", "bee", "cow"])


def repack(source: Path, target: Path, change, tensors=lambda t: t) -> Path:
    """The file with another description, whose hash is right."""
    old, about = unpack(source)
    about = json.loads(json.dumps(about))
    about = change(about) or about
    target.write_bytes(pack(tensors(old), about))
    return target


def copy_run(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


def rewrite(file: Path, change) -> None:
    """The JSON of a file, changed; in a checkpoint its manifest is made to fit."""
    content = json.loads(file.read_text())
    content = change(content) or content
    file.write_text(json.dumps(content))
    if (file.parent / MANIFEST).is_file():
        files = {p.name: p.read_bytes() for p in file.parent.iterdir() if p.name != MANIFEST}
        (file.parent / MANIFEST).write_bytes(manifest(files))


def places(value, at=()):
    """The path of every field of nested tables."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


def put(value, path, new):
    """Sets a field, or removes it where `new` is the class `object`."""
    for key in path[:-1]:
        value = value[key]
    if new is object:
        del value[path[-1]]
    else:
        value[path[-1]] = new
