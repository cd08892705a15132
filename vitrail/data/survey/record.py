"""A survey as text, kept for the next start, and the digest of the data that it is of."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.data.fingerprint import fingerprint
from vitrail.data.index.arrays import as_bytes
from vitrail.data.index.names import pack_names
from vitrail.data.survey.images import Survey, UnreadableImage

FORMAT = 1
ELSEWHERE = ("path", "annotation", "cache")  # keys that say where data is, or what the digest has anyway


class SurveyRecord(NamedTuple):
    """A survey, and the images whose masks or boxes cannot be used."""

    survey: Survey
    broken: tuple[UnreadableImage, ...]


def digest_of(dataset: Dataset, keys: Mapping[str, Any]) -> str:
    """SHA-256 over all that a survey depends on: the files by names, sizes and times, and how they are read. keys: of
    the layout."""
    classes, files = list(dataset.classes), fingerprint(dataset.entries)
    read = sorted((key, str(value)) for key, value in keys.items() if key not in ELSEWHERE)
    about = [FORMAT, dataset.layout, classes, dataset.channels, dataset.kind, files, read]
    whole = hashlib.sha256(repr(about).encode(errors="surrogateescape"))
    for name, split in dataset.splits.items():
        whole.update(f"\n{name} {len(split)}\n".encode())
        whole.update(as_bytes(np.ascontiguousarray(split.labels)))
        for block in pack_names(split.names).blocks():
            whole.update(b"".join(one + b"\0" for one in block.encoded()))
        for i in range(len(split)) if dataset.kind == "boxes" else ():  # in memory, and not always among the files
            whole.update(split.annotation_bytes(i))
    return whole.hexdigest()


def to_table(record: SurveyRecord) -> dict[str, Any]:
    """What JSON can hold, with null for a number that is not finite."""
    fields = {field.name: getattr(record.survey, field.name) for field in dataclasses.fields(record.survey)}
    return {"survey": fields, "broken": record.broken}


def from_text(text: str) -> SurveyRecord:
    """Errors: `ValueError` for a text that is no survey."""
    from pydantic import TypeAdapter, ValidationError

    try:
        table = json.loads(text)
        if table["survey"]["imbalance"] is None:
            table["survey"]["imbalance"] = float("inf")
        if set(table["survey"]) != {field.name for field in dataclasses.fields(Survey)}:
            raise ValueError("it has other fields")
        broken = TypeAdapter(tuple[UnreadableImage, ...]).validate_python(table["broken"])
        return SurveyRecord(TypeAdapter(Survey).validate_python(table["survey"]), broken)
    except (ValidationError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no survey: {error}") from None
