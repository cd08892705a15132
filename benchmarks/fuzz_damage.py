"""How files are damaged: bytes, values of JSON, members of archives whose checksums are right again, metadata."""

import io
import json
import random
import re
import zipfile
from typing import Any

import safetensors.torch

from vitrail.storage.tensors import pack

WORDS = [b"-1", b"0", b"-", b"1e999", b"NaN", b"nan", b"inf", b"none", b"null", b"true", b'""', b'"', b"[]", b"{}"]
WORDS += [b"[", b"{", b"[" * 3000, b"{" * 500, b"9" * 30, b"9" * 5000, b"\x00", b"\xff", b"\xff" * 4, b"\xff\xfe"]
WORDS += [b"\x7f\xff\xff\xff", b"../", b"..", b"~", b",", b"|", b": ", b"\n", b"\r", b"\x1b[2J", b"<!ENTITY a 'b'>"]
WORDS += [b"&a;", b"*a", b"!!x "]
VALUES: list[Any] = [None, True, -1, 0, 3, 0.5, 2**63, -(2**70), 10**400, 1e308, float("nan"), float("inf")]
VALUES += ["", "x", "7", "../x", "\0", "\x1b[2J", "9" * 400, "\udcff", "a\ud800", {}, {"x": 1}, [], [[]], [None]]
VALUES += [[1, 2, 3, 4], [1e9] * 4, [[0, 0, 9, 0, 9, 9]], [["a", 2, 3, 4, 5, 6]]]
VALUES += [{"size": [20, 30], "counts": "o"}, {"size": 5, "counts": [1]}, {"size": [20, 30], "counts": [600]}]
VALUES += [{"size": [2**40, 2**40], "counts": [0]}]


def damage(data: bytes, chance: random.Random) -> bytes:
    """The bytes of a file with one to four changes."""
    if chance.random() < 0.5 and data[:1] in b"{[":
        changed = damage_json(data, chance)
        if changed is not None:
            return changed
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = damage_bytes(data, chance)
    return data


def damage_bytes(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1) if chance.random() < 0.5 else chance.randrange(min(len(data), 400) + 1)
    size = min(chance.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
    match chance.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes(chance.randrange(256) for _ in range(size)) + data[at + size :]
        case 2:
            return data[:at] + data[at + size :]
        case 3:
            return data[:at] + data[at : at + size] * chance.choice((2, 9)) + data[at + size :]
        case 4:
            return data[:at] + chance.choice(WORDS) + data[at + size :]
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?|\w+", data[:65536]))
    if not numbers:
        return data[:at] + b"\x00" * size + data[at + size :]
    word = chance.choice(numbers)
    return data[: word.start()] + chance.choice(WORDS) + data[word.end() :]


def damage_json(data: bytes, chance: random.Random) -> bytes | None:
    """A value somewhere in it replaced, a key removed or repeated; None where it is no JSON."""
    try:
        tree = json.loads(data)
    except ValueError:
        return None
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, dict | list):
                visit(value)

    visit(tree)
    if places:
        node, key = chance.choice(places)
        if chance.random() < 0.2:
            del node[key]
        else:
            node[key] = chance.choice(VALUES)
    return json.dumps(tree).encode()


def damage_archive(data: bytes, chance: random.Random) -> bytes:
    """One member of a ZIP archive damaged, with a right checksum; now and then the archive itself."""
    if chance.random() < 0.3:
        return damage(data, chance)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as changed:
        names = archive.namelist()
        target = chance.choice(names)
        for name in names:
            content = archive.read(name)
            if name == target:
                content = damage(content, chance)
            changed.writestr(name, content)
    return out.getvalue()


def damage_metadata(data: bytes, chance: random.Random) -> bytes:
    """What a safetensors file says about its tensors damaged, with a right hash."""
    with_header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(with_header["__metadata__"]["vitrail"])["about"]
    changed = damage_json(json.dumps(about).encode(), chance)
    return pack(safetensors.torch.load(data), json.loads(changed or b"{}"))
