"""The images of a proof: real ones, of the data that the model was trained for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.assembly.data import open_data
from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.data.dataset import Split
from vitrail.data.transforms.preprocess import to_tensor
from vitrail.errors import BadImage, DataError, VitrailError, many
from vitrail.evaluation.subject import SubjectRequest, describe_data, open_source
from vitrail.recipe import DataConfig

COUNT = 32
EMBEDDED = "mini"  # the data set that comes with vitrail


@dataclass(frozen=True)
class ProofImages:
    """pixels: uint8 [H W C] each, of any size. sentence: where they are from."""

    pixels: Sequence[np.ndarray]
    sentence: str
    are_own: bool = True  # of the run, or given; not the embedded ones


@dataclass(frozen=True)
class ImageRequest:
    """Where images are from: a data set and the keys of its layout, or by default that of the run."""

    source: str
    data: str = ""
    split: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)


def read_images(request: ImageRequest, bundle: ModelBundle, count: int = COUNT) -> ProofImages:
    """Images at equal distances in the held-out part of the run's data, or in `data`; without either, embedded ones.
    Errors: `UsageError` and `DataError` for data that was given and cannot be read."""
    wanted = SubjectRequest(request.source, request.data, request.split, request.keys)
    try:
        dataset, part, split, run = open_source(wanted, bundle.task)
        pixels = take(split, bundle, count)
        if not pixels:
            raise DataError("no image can be read", "--data FOLDER names others")
    except VitrailError as error:
        if request.data or request.keys:
            raise
        return embedded_images(bundle, count, error)
    where = request.data or describe_data(run, dataset)
    return ProofImages(pixels, f"{many(len(pixels), 'image')}, the {part} part of {where}")


def take(split: Split, bundle: ModelBundle, count: int) -> list[np.ndarray]:
    """Up to `count` images that can be read, as channels of the model, evenly spread."""
    channels = build_preprocess(bundle.recipe.input).channels
    pixels = []
    for index in np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)):
        try:
            image = split.read(int(index))
            to_tensor(image, channels)
        except BadImage:
            continue
        pixels.append(image)
    return pixels


def embedded_images(bundle: ModelBundle, count: int, error: VitrailError) -> ProofImages:
    """Images that come with vitrail, of other things than the model knows: grey, the same in each of its channels."""
    split = open_data(DataConfig(EMBEDDED, {"path": EMBEDDED}))[0].splits["test"]
    why = f"the data of the run cannot be read ({error.what})" if bundle.recipe.data.name else "there is no data of it"
    hint = "--data FOLDER proves it on your own"
    return ProofImages(take(split, bundle, count), f"{count} embedded images of clothes: {why}; {hint}", False)
