"""What was seen inside a model, as files: overlays, arrays, contact sheets, figures and tables."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vitrail.analysis.inspection import Found
from vitrail.data.encode import png, rgb
from vitrail.evaluation.look import Sight

TILE, CAPTION, GAP = 160, 15, 6  # pixels of a contact sheet
ACROSS = 8  # tiles
CROWDED = 40  # axes from which a figure is laid out the quick way
DPI = 110


def pictured(folder: Path, name: str, sight: Sight) -> Iterator[tuple[Path, bytes]]:
    """The files of one picture: NAME-sheet.png, NAME.npz and an overlay for each map in NAME/."""
    drawn = [(one.name, sight.overlay(one)) for one in sight.maps]
    yield folder / f"{name}-sheet.png", png(sheet(sight, drawn))
    yield folder / f"{name}.npz", packed({one.name: one.values.numpy() for one in sight.maps})
    for title, pixels in drawn:
        yield folder / name / f"{safe(title)}.png", png(pixels)


def sheet(sight: Sight, drawn: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """The picture and all that is drawn over it, small, each with its name below: uint8 [H W 3]."""
    tiles = [(sight.said or "picture", rgb(sight.picture)), *drawn]
    across = min(ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    tall = fitted(tiles[0][1]).height
    page = Image.new("RGB", (GAP + across * (TILE + GAP), GAP + down * (tall + CAPTION + GAP)), "white")
    pen = ImageDraw.Draw(page)
    for number, (title, pixels) in enumerate(tiles):
        row, column = divmod(number, across)
        left, top = GAP + column * (TILE + GAP), GAP + row * (tall + CAPTION + GAP)
        page.paste(fitted(pixels), (left, top))
        pen.text((left, top + tall + 2), shortened(title), fill="black")
    return np.asarray(page)


def fitted(pixels: np.ndarray) -> Image.Image:
    """As large as a tile, in its own proportions; tiny pictures keep their pixels as squares."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def shortened(title: str) -> str:
    """What fits under a tile, in letters that the font has."""
    plain = title.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= TILE // 6 else f"...{plain[3 - TILE // 6 :]}"


def found(folder: Path, one: Found) -> Iterator[tuple[Path, bytes]]:
    """The files of one look at the model: NAME.npz, NAME.png (NAME-PART.png where there are several) and NAME.csv."""
    yield folder / f"{one.name}.npz", packed(one.arrays)
    for part, figure in one.figures.items():
        if len(figure.axes) > CROWDED:
            figure.set_layout_engine("none")
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=DPI)
        yield folder / f"{one.name}{f'-{safe(part)}' if part else ''}.png", written.getvalue()
    if one.table:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(one.table)
        yield folder / f"{one.name}.csv", table.getvalue().encode()


def packed(arrays) -> bytes:
    """Arrays by name as .npz; slashes in names would become folders."""
    written = io.BytesIO()
    np.savez_compressed(written, **{name.replace("/", ":"): values for name, values in arrays.items()})
    return written.getvalue()


def safe(name: str) -> str:
    return "".join(ch if ch.isalnum() or ch in "-_." else "-" for ch in name)
