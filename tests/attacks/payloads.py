"""Builders of hostile and damaged files. Each writes one file into a folder; were it to succeed, it would make the file
`marker`.

They are functions, not files: nothing that could be loaded by mistake lies in this repository.
"""

import builtins
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import torch

FLOATS = struct.pack("<4f", 1, 2, 3, 4)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def archive(path, pickled, extra=(), storage=FLOATS, method=zipfile.ZIP_STORED):
    """A zip as torch writes it, with a pickle of our own."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in (
            ("x/data.pkl", pickled),
            ("x/byteorder", b"little"),
            ("x/data/0", storage),
            ("x/version", b"3\n"),
            *extra,
        ):
            file.writestr(name, content)
    return path


def tensor(
    size=(4,), stride=(1,), numel=4, key="0", kind="FloatStorage", rebuild="torch._utils\n_rebuild_tensor_v2", offset=0
):
    """The pickle of {"w": a tensor of that size over that storage}, written by hand."""

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def number(n):
        raw = n.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(ns):
        return b"(" + b"".join(map(number, ns)) + b"t"

    stored = (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(numel) + b"tQ"
    )
    rest = number(offset) + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + text("w") + b"c" + rebuild.encode() + b"\n(" + stored + rest + b"tRs."


def calls(marker):
    """Things that a pickle could call to make `marker`."""
    touch = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    return {
        "os.system": Call(os.system, command),
        "os.popen": Call(os.popen, command),
        "eval": Call(builtins.eval, touch),
        "exec": Call(builtins.exec, touch),
        "open": Call(builtins.open, str(marker), "w"),
        "getattr": Call(getattr(builtins, "getattr"), os, "system"),  # noqa: B009
        "nested": OrderedDict(a=[{"b": (1, Call(os.system, command))}]),
        "torch.load": Call(torch.load, str(marker)),
        "import": Call(__import__, "os"),
    }


def code(folder, marker, what, protocol, kind):
    """A call of `what` as a zip, a bare pickle, an old torch file, a tar or a joblib-like file."""
    thing = calls(marker)[what]
    path = folder / f"x{'.bin' if protocol % 2 else '.pth'}"
    pickled = pickle.dumps(thing, protocol) if what != "getattr" else dotted(marker)
    if kind == "zip":
        return archive(path, pickled)
    if kind == "pickle":
        path.write_bytes(pickled)
    elif kind == "old torch":
        path.write_bytes(
            b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + pickled
        )
    elif kind == "tar":
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("pickle")
            info.size = len(pickled)
            tar.addfile(info, io.BytesIO(pickled))
    elif kind == "joblib":
        path.write_bytes(b"ZF0x10".ljust(8) + pickled)
    return path


def dotted(marker):
    """builtins.getattr(os, "system")(command), through STACK_GLOBAL."""
    text = f"touch {marker}"
    return (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x06system\x93\x8c\x08__call__\x86R"
            + b"\x8c" + bytes([len(text)]) + text.encode() + b"\x85R.")  # fmt: skip


def hungry(folder):
    """bytearray(10**13), which torch's own restricted unpickler lets through."""
    return archive(
        folder / "x.pth", b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R."
    )


def internals(folder):
    return archive(folder / "x.pth", tensor(rebuild="torch._utils\n_rebuild_meta_tensor_no_storage"))


def polyglot(folder, marker):
    """A bare pickle with an honest zip behind it: a reader that looks for the zip at the end sees weights, torch sees
    the pickle."""
    honest = archive(folder / "honest.pth", tensor()).read_bytes()
    path = folder / "x.pth"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {marker}"), 2) + honest)
    return path


def two_directories(folder):
    """A zip appended to a zip: the first begins the file, the second's directory ends it."""
    path = folder / "x.pth"
    path.write_bytes(
        archive(folder / "a.pth", tensor(size=(2,))).read_bytes() + archive(folder / "b.pth", tensor()).read_bytes()
    )
    return path


def deflated(folder):
    return archive(
        folder / "x.pth", tensor(numel=2**24, size=(2**24,)), storage=bytes(2**26), method=zipfile.ZIP_DEFLATED
    )


def npz_bomb(folder):
    """128 MiB of zeros in 130 kB."""
    path = folder / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("w.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (2**25,)})
        for _ in range(128):
            entry.write(bytes(2**20))
    return path


def npz_objects(folder, marker):
    path = folder / "x.npz"
    np.savez(path, w=np.array([Call(os.system, f"touch {marker}")], dtype=object))
    return path


def npz_promise(folder):
    """An array that claims 4 TB and has 16 bytes."""
    path = folder / "x.npz"
    with zipfile.ZipFile(path, "w") as file, file.open("w.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
        entry.write(FLOATS)
    return path


def npz_nested(folder):
    path = folder / "x.npz"
    np.savez(folder / "inner.npz", w=np.zeros(3))
    with zipfile.ZipFile(path, "w") as file:
        file.write(folder / "inner.npz", "inner.npz")
    return path


def nested(folder):
    inner = archive(folder / "inner.pth", tensor()).read_bytes()
    return archive(folder / "x.pth", tensor(), [("x/inner.zip", inner)])


def climbing(folder):
    return archive(folder / "x.pth", tensor(), [("../../escape", b"x")])


def twice(folder):
    """DATA.PKL and data.pkl: torch's reader does not tell them apart."""
    return archive(folder / "x.pth", tensor(), [("x/DATA.PKL", tensor(size=(2,)))])


def patched(folder, change):
    """An honest file whose bytes `change` then works on."""
    path = archive(folder / "x.pth", tensor())
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def overlapping(folder):
    """Two entries of the directory share one place in the file."""

    def change(content):
        first = content.index(b"PK\x01\x02")
        second = content.index(b"PK\x01\x02", first + 4)
        content[second + 42 : second + 46] = content[first + 42 : first + 46]

    return patched(folder, change)


def reaching(folder):
    """The first entry says that it goes on through the second."""

    def change(content):
        at = content.index(b"PK\x01\x02") + 20
        size = int.from_bytes(content[at : at + 4], "little") + 60
        content[at : at + 8] = struct.pack("<II", size, size)

    return patched(folder, change)


def encrypted(folder):
    def change(content):
        content[content.index(b"PK\x01\x02") + 8] |= 1

    return patched(folder, change)


def crowded(folder):
    """A directory of a million entries, all of them one."""
    one = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHII", 1, 0, 0, 0, 0, 0, 0) + b"a"
    start, count = 31, 10**6
    path = folder / "x.pth"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 1, 0) + b"a")
        for _ in range(100):
            file.write(one * (count // 100))
        length, end = len(one) * count, start + len(one) * count
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, length, start, 0))
    return path


def expanded(folder):
    """A terabyte of numbers over sixteen bytes, by a stride of zero."""
    return archive(folder / "x.pth", tensor(size=(10**12,), stride=(0,)))


def negative(folder):
    return archive(folder / "x.pth", tensor(size=(4,), stride=(-1,), offset=3))


def huge(folder):
    return archive(folder / "x.pth", tensor(size=(2**31, 2**31), stride=(2**31, 1)))


def beyond(folder):
    """A storage that says it is longer than its entry: reading on would read what lies behind it."""
    return archive(folder / "x.pth", tensor(size=(10**6,), numel=10**6))


def flipped(folder):
    def change(content):
        content[content.index(FLOATS) + 5] ^= 0x10

    return patched(folder, change)


def endless(folder):
    """A pickle of ten million empty lists."""
    return archive(folder / "x.pth", b"\x80\x02(" + b"]" * 10**7 + b"l.")


def safetensors(folder, header, body=FLOATS, length=None):
    """A .safetensors file with a header of our own, as text or as a dictionary."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def row(begin=0, end=16, shape=(4,), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


def cut(folder, keep):
    path = safetensors(folder, {"w": row()})
    path.write_bytes(path.read_bytes()[:keep])
    return path


SAFETENSORS = {
    "one byte": lambda f: cut(f, 1),
    "half": lambda f: cut(f, 40),
    "all but one byte": lambda f: cut(f, -1),
    "nothing": lambda f: cut(f, 0),
    "header of 2^63": lambda f: safetensors(f, {"w": row()}, length=2**63),
    "header of 2^64-1": lambda f: safetensors(f, {"w": row()}, length=2**64 - 1),
    "header of 101 MB": lambda f: safetensors(f, json.dumps({"w": row()}).encode().ljust(101 * 2**20)),
    "overlap": lambda f: safetensors(f, {"a": row(), "b": row(8, 24)}, FLOATS + bytes(8)),
    "hole": lambda f: safetensors(f, {"a": row(), "b": row(24, 40)}, FLOATS + bytes(24)),
    "surplus": lambda f: safetensors(f, {"w": row()}, FLOATS + b"more"),
    "a name twice": lambda f: safetensors(f, b'{"w":%s,"w":%s}' % ((json.dumps(row()).encode(),) * 2)),
    "unknown kind": lambda f: safetensors(f, {"w": row(kind="F31")}),
    "exotic kind": lambda f: safetensors(f, {"w": row(kind="F8_E8M0", shape=(16,))}),
    "shape and bytes": lambda f: safetensors(f, {"w": row(shape=(5,))}),
    "huge shape": lambda f: safetensors(f, {"w": row(shape=(2**62, 8))}),
    "negative shape": lambda f: safetensors(f, {"w": row(shape=(-4,))}),
    "negative place": lambda f: safetensors(f, {"w": row(-16, 0)}),
    "deep": lambda f: safetensors(f, b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "no json": lambda f: safetensors(f, b"PK\x03\x04 hello"),
    "a list": lambda f: safetensors(f, [1, 2]),
    "damaged header of ours": lambda f: safetensors(f, {"__metadata__": {"vitrail": "{"}, "w": row()}),
}
ZIPS = {  # what it is: how it is made, and why it must be refused
    "polyglot of two zips": (two_directories, "directory is not at its stated offset"),
    "deflated": (deflated, "compressed by an unexpected method"),
    "nested": (nested, "inner.zip"),
    "climbing": (climbing, "unsafe path"),
    "names that differ in case": (twice, "the same name"),
    "overlapping": (overlapping, "in its local header"),
    "reaching over": (reaching, "overlaps another"), "encrypted": (encrypted, "encrypted"),
    "a million entries": (crowded, "1,000,000 entries"), "expanded": (expanded, "claims 1,000,000,000,000 numbers"),
    "negative stride": (negative, "stride"),
    "huge shape": (huge, "sizes=.2147483648"),
    "longer than its entry": (beyond, "storage"),
    "flipped bit": (flipped, "checksum"),
    "endless pickle": (endless, "10,000,005 bytes"),
    "hungry": (hungry, "builtins.bytearray"),
    "meta tensor": (internals, "_rebuild_meta_tensor"), "npz bomb": (npz_bomb, "would unpack to 134,217,856"),
    "npz promise": (npz_promise, "claims the shape"), "npz nested": (npz_nested, "is no array"),
}  # fmt: skip
