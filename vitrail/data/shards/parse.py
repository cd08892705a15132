"""What is written of a sample in a shard: its .json, the number or name of its class, its boxes."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitrail.data.dataset import Boxes
from vitrail.errors import DataError

NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


def parse_json(where: str, data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(data)
        if isinstance(table, dict):
            return table
        raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} has a .json that cannot be read: {str(error)[:120]}", "write the shard again"
        ) from None


def parse_label(where: str, text: str) -> int | str:
    if not text or len(text) > 300:
        raise DataError(f"{where} has an empty or endless .cls", "it is the number or the name of a class")
    return int(text) if NUMBER.fullmatch(text) else text


def parse_written(where: str, value: Any) -> Any:
    """A label of a .json: a number, a name, or a list of them; None for none. Whole numbers may be written with a
    point."""
    if isinstance(value, list):
        return [parse_written(where, one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not (value is None or isinstance(value, int | str)):
        what = f"{where} has the label {str(value)[:40]}"
        raise DataError(what, "a label is the number or the name of a class, or a list of these")
    return value


def parse_boxes(where: str, about: Mapping[str, Any]) -> Boxes:
    try:
        boxes = np.array(about["boxes"], np.float32).reshape(-1, 4)
        labels = np.array(about["labels"], np.int64).reshape(-1)
        crowd = np.array(about.get("crowd", [False] * len(labels)), bool).reshape(-1)
        if not len(boxes) == len(labels) == len(crowd) or not np.isfinite(boxes).all():
            raise ValueError("boxes and labels differ in number, or a corner is no number")
        return Boxes(boxes, labels, crowd)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} has boxes that cannot be read: {str(error)[:120]}", "write the shard again") from None
