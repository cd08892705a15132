"""What is exported and how, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.assembly.model import ModelBundle
from vitrail.export.images import ProofImages
from vitrail.export.proof import Proof
from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import ImageType
from vitrail.inference.labels import label_bundle
from vitrail.layers.merge import Merge


@dataclass(frozen=True)
class ExportRequest:
    """What to export, as it was asked. data, split, keys: other images for the proof and for calibration than those
    of the run. dynamic: int8 with scales that are found at run time. overwrite: replace the folder of an earlier
    export. force: int8 that loses more than it may. options: of the format, fields of its `Config`.
    merge: how tokens are merged, None as the model was trained; labels: of a model with a text tower, texts that name
    the classes of a classifier, which is exported then."""

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
    labels: tuple[str, ...] = ()


class ExportSubject(NamedTuple):
    """What is exported: a model, where it came from, and images to prove it on."""

    bundle: ModelBundle
    source: str  # as it was typed
    sha256: str  # of its weights
    images: ProofImages

    def with_labels(self, labels: tuple[str, ...]) -> "ExportSubject":
        """Of a classifier of the classes that texts name; itself without any. Errors: `UsageError`."""
        return self._replace(bundle=label_bundle(self.bundle, labels, (), self.source)) if labels else self


class ExportResult(NamedTuple):
    folder: Path
    info: ExportInfo
    proof: Proof
    usage: tuple[str, ...]  # how to use the file, in a few lines
    notes: tuple[str, ...] = ()
    int8: Mapping[str, Any] | None = None  # what was quantised, and its accuracy before and after
