"""The files beside an exported one: what it is, and its proof."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.assembly.model import ModelBundle, describe_bundle
from vitrail.export.metadata import describe_input
from vitrail.export.proof import FILE, Proof
from vitrail.inference.exported import INFO, ExportInfo, info_json
from vitrail.storage.atomic import write_through
from vitrail.storage.hashing import hash_file
from vitrail.storage.json_text import to_json


def write_sidecars(
    folder: Path, bundle: ModelBundle, info: ExportInfo, proof: Proof, more: Mapping[str, Any] | None = None
) -> ExportInfo:
    """Writes `model.json` and `proof.json` into the folder of an export, beside its file. more: further sections of
    both. Returns what is known of the file, now with its hash."""
    info = dataclasses.replace(info, sha256=hash_file(folder / info.file))
    extra = dict(more or {})
    write_through(folder / FILE, to_json({**proof.to_dict(), **extra}, indent=1).encode())
    write_through(folder / INFO, info_json(info, describe_bundle(bundle), {**describe_input(bundle, info), **extra}))
    return info
