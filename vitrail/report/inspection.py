"""Results of inspecting a model as files: overlays, arrays, contact sheets, figures and tables."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vitrail.analysis.figures import draw_panels
from vitrail.analysis.inspection import Inspection
from vitrail.data.encode import encode_png, to_rgb
from vitrail.evaluation.drawings import Drawings
from vitrail.evaluation.look import ImageMaps
from vitrail.evaluation.merged import MergedImage

TILE, CAPTION, GAP = 160, 15, 6  # pixels of a contact sheet
ACROSS = 8  # tiles
CROWDED = 40  # axes from which a figure is laid out without the slow layout engine
DPI = 110


def image_files(folder: Path, name: str, maps: ImageMaps) -> Iterator[tuple[Path, bytes]]:
    """The files of one image: NAME-sheet.png, NAME.npz and an overlay for each map in NAME/."""
    overlays = [(one.name, maps.overlay(one)) for one in maps.maps]
    yield folder / f"{name}-sheet.png", encode_png(sheet(maps, overlays))
    yield folder / f"{name}.npz", pack_arrays({one.name: one.values.numpy() for one in maps.maps})
    for title, pixels in overlays:
        yield folder / name / f"{safe_name(title)}.png", encode_png(pixels)


def drawing_files(folder: Path, name: str, drawings: Drawings) -> Iterator[tuple[Path, bytes]]:
    """An image in NAME/ for each drawing of a task."""
    for title, pixels in drawings.panels.items():
        yield folder / name / f"{safe_name(title)}.png", encode_png(to_rgb(pixels))


def merging_files(folder: Path, name: str, merged: MergedImage) -> Iterator[tuple[Path, bytes]]:
    """NAME-merged.png, groups of patches over the image; NAME-merged.npz, the first cell of each cell's group."""
    buffer = io.BytesIO()
    draw_panels(merged.panels).savefig(buffer, format="png", dpi=DPI)
    yield folder / f"{name}-merged.png", buffer.getvalue()
    yield folder / f"{name}-merged.npz", pack_arrays(merged.groups)


def sheet(maps: ImageMaps, overlays: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """A contact sheet of the image and its overlays, each with its name below: uint8 [H W 3]."""
    tiles = [(maps.prediction or "image", to_rgb(maps.image)), *overlays]
    across = min(ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    tall = fit_image(tiles[0][1]).height
    page = Image.new("RGB", (GAP + across * (TILE + GAP), GAP + down * (tall + CAPTION + GAP)), "white")
    pen = ImageDraw.Draw(page)
    for number, (title, pixels) in enumerate(tiles):
        row, column = divmod(number, across)
        left, top = GAP + column * (TILE + GAP), GAP + row * (tall + CAPTION + GAP)
        page.paste(fit_image(pixels), (left, top))
        pen.text((left, top + tall + 2), shorten_title(title), fill="black")
    return np.asarray(page)


def fit_image(pixels: np.ndarray) -> Image.Image:
    """As large as a tile, in its own proportions; tiny images keep their pixels as squares."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def shorten_title(title: str) -> str:
    """What fits under a tile, in letters that the font has."""
    text = title.encode("latin-1", "replace").decode("latin-1")
    return text if len(text) <= TILE // 6 else f"...{text[3 - TILE // 6 :]}"


def inspection_files(folder: Path, one: Inspection) -> Iterator[tuple[Path, bytes]]:
    """The files of one inspection of the model: NAME.npz, NAME.png (or NAME-PART.png for several) and NAME.csv."""
    yield folder / f"{one.name}.npz", pack_arrays(one.arrays)
    for part, figure in one.figures.items():
        if len(figure.axes) > CROWDED:
            figure.set_layout_engine("none")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        yield folder / f"{one.name}{f'-{safe_name(part)}' if part else ''}.png", buffer.getvalue()
    if one.table:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(one.table)
        yield folder / f"{one.name}.csv", table.getvalue().encode()


def pack_arrays(arrays) -> bytes:
    """Arrays by name as .npz; slashes in names would become folders."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name.replace("/", ":"): values for name, values in arrays.items()})
    return buffer.getvalue()


def safe_name(name: str) -> str:
    return "".join(ch if ch.isalnum() or ch in "-_." else "-" for ch in name)
