"""What is exported and how, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from vitrail import catalog
from vitrail.assembly.model import ModelBundle
from vitrail.errors import choose
from vitrail.export.images import ProofImages
from vitrail.export.proof import Proof
from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import ImageType
from vitrail.layers.merge import Merge, check_merge
from vitrail.validation import update_config


@dataclass(frozen=True)
class ExportRequest:
    """What to export, as it was asked. data, split, keys: other images for the proof and for calibration than those
    of the run. dynamic: int8 with scales that are found at run time. overwrite: replace the folder of an earlier
    export. force: int8 that loses more than it may. options: of the format, fields of its `Config`.
    merge: how tokens are merged, None as the model was trained."""

    format: str = "onnx"
    image_type: ImageType = "uint8"
    attention: bool = False
    int8: bool = False
    dynamic: bool = False
    data: str = ""
    split: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    force: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    merge: Merge | None = None


def make_request(format: str, keys: Mapping[str, Any]) -> ExportRequest:
    """A request of keywords: fields of `ExportRequest`, or of the config of the format. Errors: `UsageError` for any
    other."""
    own = {f.name for f in fields(ExportRequest)} - {"format", "keys", "options"}
    theirs = catalog.config_fields("export/formats", format)
    for key in keys:
        choose(key, sorted(own | set(theirs)), "key", where=f" of vitrail.export for {format}")
    request = update_config(ExportRequest(format), {k: v for k, v in keys.items() if k in own}, "export")
    if request.merge is not None:
        check_merge(request.merge)
    return replace(request, options={k: v for k, v in keys.items() if k not in own})


class ExportSubject(NamedTuple):
    """What is exported: a model, where it came from, and images to prove it on."""

    bundle: ModelBundle
    source: str  # as it was typed
    sha256: str  # of its weights
    images: ProofImages


class ExportResult(NamedTuple):
    folder: Path
    info: ExportInfo
    proof: Proof
    usage: tuple[str, ...]  # how to use the file, in a few lines
    notes: tuple[str, ...] = ()
    int8: Mapping[str, Any] | None = None  # what was quantised, and its accuracy before and after
