"""Files that timm, transformers and torchvision write, each loaded without a word on the model, against theirs.

    python benchmarks/identify.py [--only 'vit_*' swin] [--page]

Every model has random weights. It is written twice: as the library saves a folder, with its config.json, and as a bare
file of tensors; both are read by `vitrail.weights.identify`, built, loaded strictly, and compared in logits or features
on one image. Results are kept by name in `identify.json`, so that parts can be run one after another; the page
`docs/identify.md` is written from all of them (with --page: only that).
"""

import argparse
import fnmatch
import gc
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import identify_models as models
import torch
from history import append
from safetensors.torch import save_file
from torch import nn

from vitrail.assembly.model import create_backbone, create_model
from vitrail.contracts import Denoiser, HeadedModel
from vitrail.errors import VitrailError
from vitrail.recipe import Choice
from vitrail.weights.folders import read_published
from vitrail.weights.identify import Identified, identify
from vitrail.weights.load import LoadOptions, choose_source, load_tensors
from vitrail.weights.published import load_table

BAR = 1e-5  # relative error
RESULTS = Path(__file__).with_name("identify.json")
PAGE = Path(__file__).parents[1] / "docs" / "identify.md"


class Loaded(NamedTuple):
    """A file, read as what it says it is."""

    found: Identified
    net: nn.Module


def load(path: Path, given: Choice | None = None) -> Loaded:
    """The model of a file or folder with its weights. Errors: those of identifying and loading."""
    raw, sidecar = read_published(path)
    found = identify(raw.tensors, sidecar, given)
    keys = dict(found.model.keys)
    if found.outputs:
        net = create_model(found.model.name, found.outputs, keys)
    else:
        net = create_backbone(found.model.name, keys)
    sources = load_table(found.model.name.partition("/")[0]).sources
    chosen = choose_source(net, raw, sources, found.source.partition(":")[0])
    load_tensors(net, raw, chosen, LoadOptions())
    return Loaded(found, net.eval())


@torch.no_grad()
def compare(net: nn.Module, case: models.Case, theirs: nn.Module, size: tuple[int, int]) -> float:
    """The relative error of logits, or of features where there is no head."""
    torch.manual_seed(3)
    x = torch.randn(1, channels_of(net), *size)
    wanted = case.output(theirs, x)
    if isinstance(net, Denoiser):
        got = net(x, torch.tensor([7.0]), torch.tensor([3]))
    elif case.by_map:
        got = net(x).maps[-1].mean((2, 3))
    else:
        got = net(x) if isinstance(net, HeadedModel) else torch.stack(net(x).summaries).mean(0)
    return float((got - wanted).norm() / wanted.norm())


def channels_of(net: Any) -> int:
    return int((net.backbone if isinstance(net, HeadedModel) else net).config.channels)


def try_case(case: models.Case, folder: Path) -> dict[str, Any]:
    """One row: what both forms were found to be, and their errors."""
    torch.manual_seed(1)
    theirs = models.shake(case.build())
    case.save(theirs, folder / "saved")
    row: dict[str, Any] = {"library": case.origin, "as": case.kind}
    before: dict[str, Any] = {}
    for form in ("folder", "file"):
        path = folder / "saved"
        if form == "file":
            state = {n: t.contiguous() for n, t in case.state(theirs, path).items()}
            path = folder / "bare" / "weights.safetensors"
            path.parent.mkdir()
            save_file(state, path)
            del state
        before = outcome(path, case, theirs, before)
        row |= {f"{form} {key}": value for key, value in before.items()}
    return row


def outcome(path: Path, case: models.Case, theirs: nn.Module, before: dict[str, Any]) -> dict[str, Any]:
    """What a file was found to be, its error, and where nothing in it decides, the message and the error with the
    first answer. before: the outcome of the same tensors in another file; the same model of them computes the same."""
    try:
        loaded, asked = load(path), ""
    except VitrailError as error:
        asked = str(error)
        if "nothing in the file says" not in asked:
            return {"error": None, "message": asked}
        loaded = load(path, case.answer)
    found = loaded.found
    if not asked and (found.model.name, repr(found.model.keys)) == (before.get("model"), before.get("choice")):
        return before
    size = case.size or (found.input.size or (224, 224))
    error = compare(loaded.net, case, theirs, size)
    shown = " ".join(f"{k} {v}" for k, v in found.model.keys.items())
    result = {"model": found.model.name, "keys": shown, "source": found.source, "error": error}
    result["choice"] = repr(found.model.keys)
    return result | ({"message": asked} if asked else {})


def write_page(rows: dict[str, dict[str, Any]]) -> None:
    """docs/identify.md from all rows."""
    good = [r for r in rows.values() if is_equal(r["folder error"])]
    bare = [r for r in rows.values() if is_equal(r["file error"]) and "file message" not in r]
    asked = [r for r in rows.values() if is_equal(r["file error"]) and "file message" in r]
    lines = [
        "# What files say of themselves",
        "",
        "Written by `python benchmarks/identify.py`: models of timm, transformers, torchvision and diffusers with",
        "random weights, saved as each library saves them, and loaded without `--model`. *Folder* is what the library",
        "writes, with its config.json; *file* is the tensors alone. The number is the relative difference of logits or",
        "features of an image. Small models have few heads of odd widths, which no tensor shows; of all published",
        "sizes they are known.",
        "",
        f"{len(rows)} models: {len(good)} folders equal theirs to {BAR:g}; of the bare files {len(bare)} need no word,",
        f"and {len(asked)} the one that their tensors cannot say (it is named, with the command).",
        "",
        "| model | library | read as | folder | file |",
        "|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (item[1]["library"], item[0])):
        model = row.get("folder model", row.get("file model", ""))
        keys = row.get("folder keys", row.get("file keys", "")).replace("|", "\\|")
        lines.append(f"| {name} | {row['library']} | {model} {keys} | {cell(row, 'folder')} | {cell(row, 'file')} |")
    lines += ["", *notes(rows)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_equal(error: float | None) -> bool:
    return error is not None and error <= BAR


def cell(row: dict[str, Any], form: str) -> str:
    error, message = row.get(f"{form} error"), row.get(f"{form} message", "")
    if error is None:
        return f"not here: {message.splitlines()[0][:120]}" if message else "not written"
    number = f"{error:.0e}" if error else "0"
    return number + (f", after `{message.splitlines()[-1].removesuffix(' says it')}`" if message else "")


def notes(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What is not equal, by name."""
    failed = [name for name, row in rows.items() if not is_equal(row["folder error"])]
    other = [name for name, row in rows.items() if row["file error"] is not None and not is_equal(row["file error"])]
    lines = [f"Not equal or not here: {', '.join(sorted(failed))}."] if failed else ["All folders are equal."]
    if other:
        same = "Bare files with the same tensors as a commoner model, and read as that"
        lines += ["", f"{same}: {', '.join(sorted(other))}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names, or a library")
    parser.add_argument("--page", action="store_true", help="only write the page")
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    cases = [] if given.page else models.cases()
    for case in cases:
        if not any(fnmatch.fnmatch(case.name, p) or p == case.origin for p in given.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[case.name] = try_case(case, Path(folder))
        row = rows[case.name]
        for form in ("folder", "file"):
            row.pop(f"{form} choice", None)
        print(f"{case.name:45} {cell(row, 'folder'):40} {cell(row, 'file')}", flush=True)
        gc.collect()
        RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_page(rows)
    equal = {form: sum(is_equal(row[f"{form} error"]) for row in rows.values()) for form in ("folder", "file")}
    append("identify", {"models": len(rows), "equal": equal}, {"only": " ".join(given.only)})


if __name__ == "__main__":
    main()
