"""The formats of image files that are read, by content and by suffix, and the ways to read others."""

import importlib.util
import re
from typing import BinaryIO

from PIL import Image, features

from vitrail.errors import BadImage

COMMON = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # by content, never by suffix; MPO is a JPEG of frames
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
AGAIN = "save it again from the original, or remove it from the data set"
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
AVIF = (".avif", ".avifs")
HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
WITH_HEIF = "pip install pillow-heif"  # reads HEIC and HEIF
WITH_AVIF = "pip install -U pillow"  # reads AVIF since 11.3
OTHERS = """.jp2 .j2k .jpx .jxl .svg .psd .ico .icns .exr .hdr .dds .tga .pcx .eps .ai .pdf .xcf .wdp .jxr .sgi
.dcm .nii .mha .nrrd .fits .fit .svs .ndpi .mrxs .raw .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .qoi .pfm .flif .bpg"""
FOREIGN = (  # formats of other files, by their first bytes
    (rb"\s*(<!doctype html|<html)", "a web page (HTML)"),
    (rb"\s*<(\?xml|svg)", "XML or SVG"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb".{4}ftyp", "a video, or HEIC or AVIF of a kind that is not read"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"8BPS", "Photoshop"),
    (rb"\x00\x00\x01\x00", "an icon (ICO)"),
)
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


def has_avif() -> bool:
    """Whether this Pillow reads AVIF."""
    return features.check("avif") is True


def has_heif() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def image_suffixes() -> frozenset[str]:
    """The endings, in lower case, of the files that can be read on this machine."""
    return frozenset((*SUFFIXES, *(AVIF if has_avif() else ()), *(HEIF if has_heif() else ())))


def way_to_read(suffix: str) -> str:
    """What makes images with such an ending readable: a command, or the formats to convert them to; "" for no image.

    >>> way_to_read(".jxl")
    'convert them to JPEG or PNG'
    """
    if suffix in HEIF:
        return WITH_HEIF
    if suffix in AVIF:
        return WITH_AVIF
    return "convert them to JPEG or PNG" if suffix in OTHERS.split() else ""


def open_image(file: BinaryIO, start: bytes) -> Image.Image:
    """The image in an open file, no pixel decoded. start: its first 64 bytes. Raises `BadImage`, or what Pillow raises
    for damage."""
    if not start:
        raise BadImage("is empty", AGAIN)
    brands = list_brands(start) if start[4:8] == b"ftyp" else ()
    is_avif = any(b in (b"avif", b"avis") for b in brands)
    if not is_avif and any(b in HEIF_BRANDS for b in brands):
        return _open_heif(file)
    if is_avif and not has_avif():
        raise BadImage("is AVIF, which this Pillow does not read", WITH_AVIF)
    try:
        return Image.open(file, formats=(*COMMON, "AVIF") if is_avif else COMMON)
    except Image.UnidentifiedImageError:
        pass
    if is_avif or start.startswith(STARTS) or start[8:12] == b"WEBP" or re.match(rb"P[1-7fF][\s#]", start):
        raise BadImage("is truncated or damaged: it starts like an image, but its header cannot be read", AGAIN)
    what = next((what for pattern, what in FOREIGN if re.match(pattern, start, re.IGNORECASE | re.DOTALL)), "")
    raise BadImage(
        f"is not an image: its bytes are {what + ', ' if what else ''}not {READABLE}",
        f"convert it to {READABLE}, or remove it",
    )


def list_brands(start: bytes) -> tuple[bytes, ...]:
    """What a file of boxes says that it is, from its first bytes."""
    return start[8:12], *(start[i : i + 4] for i in range(16, min(64, int.from_bytes(start[:4], "big")), 4))


def _open_heif(file: BinaryIO) -> Image.Image:
    if not has_heif():
        raise BadImage("is HEIC or HEIF, which Pillow does not read alone", WITH_HEIF)
    from pillow_heif import HeifImageFile  # used as it is: registered nowhere

    return HeifImageFile(file)
