"""What a caller names (files, folders, globs, videos, addresses) as single sources, in order; torch is not imported."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.data.files import FolderContents, list_images
from vitrail.data.formats import image_suffixes, way_to_read
from vitrail.data.video import SUFFIXES, import_av, is_video
from vitrail.errors import BadImage, DataError, many, nearest
from vitrail.inference.download import is_url
from vitrail.validation import as_path


class Source(NamedTuple):
    """One image or video. item: a path, an address, or what a caller handed over as it is."""

    name: str  # in records and messages
    item: Any

    @property
    def is_video(self) -> bool:
        return isinstance(self.item, Path | str) and is_video(self.name.partition("?")[0])


class Sources(NamedTuple):
    """notes: what was left out, and why."""

    sources: list[Source]
    notes: list[str]


def list_sources(images: Sequence[Any]) -> Sources:
    """Folders and globs become the images in them; the rest stays as it is.

    Errors: `DataError` for a path that does not exist or holds no image; `UsageError` for a video without PyAV.
    """
    sources: list[Source] = []
    notes: list[str] = []
    for number, image in enumerate(images):
        if not isinstance(image, str | Path):
            sources.append(Source(f"image {number}", image))
        elif isinstance(image, str) and is_url(image):
            sources.append(Source(image, image))
        else:
            sources += [Source(str(path), path) for path in expand(image, notes)]
    if videos := [source.name for source in sources if source.is_video]:
        import_av(videos[0])
    return Sources(sources, notes)


def expand(name: str | Path, notes: list[str]) -> list[Path]:
    """The files that a path or a glob stands for. Errors: `BadImage` where there is none, `DataError`."""
    path = as_path(name)
    if path.is_dir():
        return images_below(path, notes)
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        return matches(path, notes)
    siblings = sorted(p.name for p in path.absolute().parent.glob("*"))
    near = nearest(path.name, siblings) or siblings[:5]
    raise BadImage(f"there is no {name}", f"beside it: {', '.join(near)}" if near else "check the path")


def images_below(folder: Path, notes: list[str]) -> list[Path]:
    """The images at any depth. Errors: `DataError` where there is none."""
    contents = list_images(folder)
    videos = sum(count for suffix, count in contents.others.items() if suffix in SUFFIXES)
    unread = Counter({suffix: n for suffix, n in contents.others.items() if way_to_read(suffix)})
    left_out = FolderContents(others=unread, links=contents.links).notes()
    if videos:
        left_out.append(f"{many(videos, 'video')} in {folder} left out: name them, as in {folder}/*{SUFFIXES[0]}")
    if not contents.entries:
        endings = ", ".join(sorted(image_suffixes()))
        raise DataError(f"there is no image in {folder}", "; ".join(left_out) or f"images end in {endings}")
    notes += left_out
    return [folder / entry.name for entry in contents.entries]


def matches(pattern: Path, notes: list[str]) -> list[Path]:
    """The images and videos that a glob matches; ** stands for folders at any depth. Errors: `DataError`."""
    found = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    if not found:
        raise DataError(f"nothing matches {pattern}", "check the pattern; ** stands for folders at any depth")
    recursive = "**" in str(pattern)  # then the files in folders match by themselves
    files: list[Path] = []
    for path in found:
        if path.is_dir():
            files += [] if recursive else images_below(path, notes)
        else:
            files.append(path)
    known = (*image_suffixes(), *SUFFIXES)
    kept = [path for path in files if path.suffix.lower() in known]
    if not kept:
        raise DataError(f"no image matches {pattern}", f"it matches {', '.join(map(str, (files or found)[:3]))}")
    if len(kept) < len(files):
        notes.append(f"{many(len(files) - len(kept), 'file')} matching {pattern} left out: not images or videos")
    return kept
