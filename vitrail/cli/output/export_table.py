"""An export in words: its folder, the table of its proof, how it is used."""

from vitrail.cli.output.tables import Column, paragraph, table
from vitrail.export.exporter import ExportResult
from vitrail.export.proof import Proof, summarise
from vitrail.inference.exported import ExportInfo


def show_export(result: ExportResult) -> None:
    info = result.info
    print(f"{result.folder / info.file}: {describe_images(info)}")
    for note in result.notes:
        print("\n".join(paragraph(note)))
    before = "in fp32, before int8, " if info.precision != "fp32" else ""
    print("\n".join(proof_lines(result.proof, before)))
    print("\n  " + "\n  ".join(result.usage))


def describe_images(info: ExportInfo) -> str:
    """What the file takes."""
    if not info.inputs:
        return "weights alone"
    batch = "any batch" if info.any_batch else "one image at a time"
    sizes = "any size" if info.any_size else f"{info.size[0]} x {info.size[1]} pixels (height x width)"
    return f"{batch}, {sizes}, images {info.image_type}"


def proof_lines(proof: Proof, lead: str = "") -> list[str]:
    """The proof as a table for the terminal. lead: of what, before its first sentence."""
    heads = [Column("output", right=False), Column("batches", right=False), Column("sizes", right=False),
             Column("largest error"), Column("answers"), Column("other")]  # fmt: skip
    rows = [[one.output, one.batches, one.sizes, f"{one.error:.1e}", f"{one.answers:,}" if one.answers else "-",
             f"{one.changed:,}" if one.answers else "-"] for one in summarise(proof)]  # fmt: skip
    timing = proof.timing
    speed = (
        f"{timing.file_ms:.2f} ms an image, torch {timing.torch_ms:.2f} ms (processor time, one thread, "
        f"batch {timing.batch}); file {proof.bytes_after / 1e6:.2f} MB, weights {proof.bytes_before / 1e6:.2f} MB"
    )
    return [*paragraph(f"{lead}the same as torch on {proof.images}:"), *(f"  {line}" for line in table(heads, rows)),
            *paragraph(speed)]  # fmt: skip
