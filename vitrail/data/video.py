"""Frames of video files, read one after the other by PyAV (the extra [video]), which is imported when a video is."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.errors import BadImage, UsageError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2ts", ".ogv", ".wmv", ".flv", ".3gp")
LIMIT = 64_000_000  # pixels of a frame, as of an image
INSTALL = "pip install 'vitrail[video]'"


class Frame(NamedTuple):
    """number: from 0, counted over all frames of the video. pixels: uint8 [H W 3], upright."""

    number: int
    seconds: float
    pixels: np.ndarray


def is_video(name: str) -> bool:
    """Whether a path or an address ends like a video.

    >>> is_video("holiday.MP4"), is_video("cat.gif")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def import_av(name: str) -> Any:
    """PyAV. Errors: `UsageError` where it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError(f"{name} is a video, and PyAV, which reads its frames, is not installed", INSTALL) from None
    return av


def read_frames(source: Path | bytes, name: str, every: int = 1) -> Iterator[Frame]:
    """Every `every`-th frame, the first included. Errors: `BadImage` where the file is no video or is damaged, after
    the frames before that place; `UsageError` without PyAV."""
    av = import_av(name)
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            if not container.streams.video:
                raise BadImage(f"{name} has no frames: there is no video in it", "is it sound only?")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    yield Frame(number, float(frame.time or 0.0), upright(frame, name))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadImage(f"{name} cannot be read as a video: {why}", "is the file whole? Convert it to MP4") from None


def upright(frame: Any, name: str) -> np.ndarray:
    """The pixels of a frame, turned as its metadata say."""
    if frame.width * frame.height > LIMIT:
        raise BadImage(f"{name} has frames of {frame.width} x {frame.height} pixels", f"at most {LIMIT:,} are read")
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
