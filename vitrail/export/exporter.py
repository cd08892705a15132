"""Export: a trained model as a file in a folder of its own, with what it is and the proof that its answers are the
same. The folder appears when the proof has passed, and not before."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vitrail import catalog
from vitrail.assembly.load import hash_weights, load_bundle
from vitrail.assembly.model import ModelBundle, with_merging
from vitrail.errors import RunError, UsageError, choose
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.folders import choose_folder, new_folder, refuse_existing
from vitrail.export.images import ImageRequest, read_images
from vitrail.export.metadata import file_metadata, new_info
from vitrail.export.proof import prove
from vitrail.export.quantised import check_quantiser, quantise_export, read_quantising
from vitrail.export.request import ExportRequest, ExportResult, ExportSubject
from vitrail.export.sidecars import write_sidecars
from vitrail.inference.graph import InferenceGraph
from vitrail.layers.merge import check_merge
from vitrail.validation import as_path, update_config


def export(
    source: str | Path, request: ExportRequest, out: str | Path = "", weights: Literal["best", "last"] = "best"
) -> ExportResult:
    """A run, model folder or file as `request` says. out: a new folder; by default in the folder of the source, or of a
    single file beside it: export/FORMAT. Errors: `UsageError`, `CheckpointError`, `DataError`; `RunError` where the
    proof fails, and then nothing is written."""
    chosen = find_format(request.format, request.options)
    chosen.check()
    check_quantiser(request)
    if request.labels and not chosen.is_graph:
        raise UsageError(f"{request.format} writes weights alone, and labels are none", "leave --labels out")
    bundle, path = load_bundle(source, weights=weights)
    bundle = with_merging(bundle, request.merge)
    folder = choose_folder(request, as_path(out) if out else None, source, path)
    refuse_existing(folder, request.overwrite)
    images = read_images(ImageRequest(str(source), request.data, request.split, request.keys), bundle)
    return export_model(ExportSubject(bundle, str(source), hash_weights(path), images), chosen, request, folder)


def make_request(format: str, keys: Mapping[str, Any]) -> ExportRequest:
    """A request of keywords: fields of `ExportRequest`, or of the config of the format. Errors: `UsageError` for any
    other."""
    own = {f.name for f in dataclasses.fields(ExportRequest)} - {"format", "keys", "options"}
    theirs = catalog.config_fields("export/formats", format)
    for key in keys:
        choose(key, sorted(own | set(theirs)), "key", where=f" of vitrail.export for {format}")
    request = update_config(ExportRequest(format), {k: v for k, v in keys.items() if k in own}, "export")
    if request.merge is not None:
        check_merge(request.merge)
    return dataclasses.replace(request, options={k: v for k, v in keys.items() if k not in own})


def find_format(name: str, options: Mapping[str, Any] | None = None) -> ExportFormat:
    """A format of the catalogue, with options of its own. Errors: `UsageError` with the nearest names."""
    entry = catalog.find("export/formats", name)
    made: ExportFormat = entry.module.build(update_config(entry.config, dict(options or {}), f"--format {name}"))
    return made


def export_model(subject: ExportSubject, chosen: ExportFormat, request: ExportRequest, folder: Path) -> ExportResult:
    """Writes one export: to a temporary folder beside it, proves it there, and renames it. Errors: as `export`."""
    own, subject = subject, subject.with_labels(request.labels)
    graph = build_graph(subject.bundle, chosen, request)
    # images of the run calibrate, whatever the labels are; of given data they may be the classes, which are measured
    images = read_quantising(subject if request.data else own, request) if request.int8 else None
    with new_folder(folder) as temporary:
        result = write_and_prove(subject, chosen, graph, temporary)
        if images is not None:
            result = quantise_export(subject, chosen, request, result, images)
    return result._replace(folder=folder)


def build_graph(bundle: ModelBundle, chosen: ExportFormat, request: ExportRequest) -> InferenceGraph:
    """The graph that goes out. Errors: `UsageError` for a model or an option that the format does not have."""
    if request.image_type not in chosen.image_types:
        only = " or ".join(chosen.image_types)
        raise UsageError(f"{request.format} takes images of {only}", "leave --image-type out")
    if request.attention and not chosen.is_graph:
        raise UsageError(f"{request.format} writes weights alone, which compute no attention", "leave --attention out")
    try:
        graph = InferenceGraph(bundle, request.image_type, request.attention or chosen.shows_attention)
    except UsageError:
        if request.attention:
            raise
        graph = InferenceGraph(bundle, request.image_type)
    graph.any_size = graph.any_size and chosen.any_size
    return graph


def write_and_prove(subject: ExportSubject, chosen: ExportFormat, graph: InferenceGraph, folder: Path) -> ExportResult:
    """The files of an export in a folder. Errors: `RunError` where the proof fails."""
    bundle, path = subject.bundle, folder / chosen.file
    info = new_info(bundle, graph, type_name(chosen), chosen.file, subject.sha256, chosen.any_batch)
    if not chosen.is_graph:
        info = dataclasses.replace(info, inputs=(), any_size=False)
    chosen.write(TracedGraph(graph, bundle, graph.any_size, subject.source), file_metadata(bundle, info), path)
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    proof = prove(chosen.open(path, info), graph, bundle, subject.images, size)
    if proof.failures:
        fix = "please report it with your command; another --format may work"
        if bundle.recipe.model.keys.get("merge"):
            fix = "tokens alike to the last digits may merge otherwise in another engine; try another --merge, or 0"
        raise RunError(f"the exported file is not the model: {'; '.join(proof.failures)}; nothing was written", fix)
    info = write_sidecars(folder, bundle, info, proof)
    return ExportResult(folder, info, proof, chosen.describe(info))


def type_name(chosen: ExportFormat) -> str:
    """The name of a format: that of its module."""
    return type(chosen).__module__.rpartition(".")[2]
