"""`vitrail export`: a trained model as a file that runs without vitrail, with proof that its answers are the same."""

import sys
from dataclasses import dataclass
from typing import Literal

from vitrail.cli.syntax.arguments import merging, read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, Merging, OfRun, OfWeights, Verb
from vitrail.cli.texts.labels import read_labels
from vitrail.errors import UsageError, choose
from vitrail.storage.json_text import to_json


@dataclass
class Export(OfRun, OfWeights, AsJson, Merging):
    """Write a trained model as a file that runs without vitrail, and prove that its answers are the same.

    vitrail export runs/photos
    vitrail export runs/photos --format torch --out photos-torch
    vitrail export runs/photos --int8 --data photos
    vitrail export runs/photos --merge 8
    vitrail export runs/photos --format html
    vitrail export runs/captions --labels "a cat,a dog"
    """

    format: str = "onnx"
    """onnx, torch, safetensors, openvino, executorch or html."""
    out: str = ""
    """A new folder (default: export/FORMAT in that of the run)."""
    image_type: Literal["uint8", "float32"] = "uint8"
    """What the file takes: bytes, or floats from 0 to 1."""
    attention: bool = False
    """A further output: the attention rollout."""
    int8: bool = False
    """Smaller and often faster, in whole numbers; with --data calibrated."""
    dynamic: bool = False
    """With --int8: scales at run time, without images."""
    labels: str = ""
    """Classes, as texts, of a model that reads them."""
    data: str = ""
    """Images for the proof (default: those held out)."""
    split: str = ""
    """With --data: test, val, train or all."""
    runtime: str = ""
    """With --format html: a folder with ONNX Runtime Web (default: npm brings it once)."""
    overwrite: bool = False
    """Replace an earlier export, once the new one has its proof."""
    force: bool = False
    """Keep an int8 file that is not accurate enough."""


def export(words: list[str]) -> None:
    given, keys = read(VERB, words)
    from vitrail import catalog

    choose(given.format, catalog.list_modules("export/formats"), "export format")
    if given.runtime and "runtime" not in catalog.config_fields("export/formats", given.format):
        raise UsageError("--runtime is of the page", "--format html")
    merge = merging(given.merge)
    if given.split and not given.data:
        raise UsageError("--split is a part of other data", "--data FOLDER names it")
    from vitrail.cli.output.export_table import show_export
    from vitrail.export.exporter import ExportRequest
    from vitrail.export.exporter import export as export_source

    request = ExportRequest(
        given.format, given.image_type, given.attention, given.int8, given.dynamic, given.data, given.split,
        keys_of("data", keys), given.overwrite, given.force,
        {"runtime": given.runtime} if given.runtime else {}, merge, read_labels(given.labels) if given.labels else (),
    )  # fmt: skip
    result = export_source(given.run, request, given.out, given.checkpoint)
    if given.json:
        about = {"folder": str(result.folder), "proof": result.proof.to_dict()}
        sys.stdout.write(to_json({**about, "int8": result.int8} if result.int8 else about) + "\n")
    else:
        show_export(result)


VERB = Verb("export", Export, export, sections=("data",), changes="what is exported")
