"""The files that the model was exported to, each with the proof that its answers are those of torch."""

from pathlib import Path
from typing import Any

from vitrail.errors import CheckpointError
from vitrail.export.proof import FILE
from vitrail.inference.exported import read_info
from vitrail.inference.load_any import EXPORTS
from vitrail.report.page.markup import Section, escape_text, table
from vitrail.report.run_data import RunData
from vitrail.storage.json_text import from_json
from vitrail.validation import check_fields

HEADS = ("File", "Takes", "Output", "Batches", "Largest error", "Other answers", "Processor time of an image", "Size")
ROW: dict[str, Any] = {
    "output": str, "batch": int, "size": list[int], "error": float | int, "answers": int, "changed": int,
}  # fmt: skip
TIMING: dict[str, Any] = {"torch_ms": float | int, "file_ms": float | int}
PROOF: dict[str, Any] = {"images": str, "rows": list[dict[str, Any]], "timing": dict[str, Any], "bytes_after": int}


def section(run: RunData) -> Section | None:
    """None where nothing was exported; what is damaged is left out."""
    rows, images = [], dict[str, None]()
    for folder in sorted((run.folder.path / EXPORTS).glob("*")):
        try:
            rows += rows_of(folder)
            images[read_proof(folder)["images"]] = None
        except (CheckpointError, OSError, ValueError):
            continue
    if not rows:
        return None
    sentences = [f"Compared with torch in fp32 on {escape_text('; '.join(images))}. Errors are relative to the largest "
                 "value of an output; times are those of one thread, side by side."]  # fmt: skip
    return Section("exports", "Exports", sentences, table(HEADS, rows, "facts"))


def read_proof(folder: Path) -> dict[str, Any]:
    """What `proof.json` says, each field of its type. Errors: `CheckpointError`, `OSError`, `ValueError`."""
    path = folder / FILE
    proof = from_json(path.read_bytes())
    check_fields(proof if isinstance(proof, dict) else {}, PROOF, str(path))
    check_fields(proof["timing"], TIMING, str(path))
    for row in proof["rows"]:
        check_fields(row, ROW, str(path))
    return dict(proof)


def rows_of(folder: Path) -> list[list[str]]:
    """A row for each output of an export."""
    info, proof = read_info(folder)[0], read_proof(folder)
    sizes = "any size" if info.any_size else f"{info.size[0]} x {info.size[1]}"
    timing, rows = proof["timing"], []
    for name in info.outputs:
        some = [row for row in proof["rows"] if row["output"] == name]
        answers, changed = (sum(row[key] for row in some) for key in ("answers", "changed"))
        batches = ", ".join(dict.fromkeys(str(row["batch"]) for row in some))
        cells = [f"{folder.name}/{info.file}", f"{info.image_type}, {sizes}", name, batches,
                 f"{max((row['error'] for row in some), default=0):.1e}",
                 f"{changed:,} of {answers:,}" if answers else "",
                 f"{timing['file_ms']:.2f} ms, torch {timing['torch_ms']:.2f} ms",
                 f"{proof['bytes_after'] / 1e6:.2f} MB"]  # fmt: skip
        rows.append([escape_text(cell) for cell in cells])
    return rows
