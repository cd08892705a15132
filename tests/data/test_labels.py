"""Cells of tables that name none of the classes."""

import numpy as np
import pytest
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.errors import DataError
from vitrail.recipe import DataConfig


def table(folder, cells):
    for i in range(len(cells)):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    (folder / "t.csv").write_text("path,label\n" + "".join(f'{i}.png,"{cell}"\n' for i, cell in enumerate(cells)))
    return open_data(DataConfig("", {"path": str(folder / "t.csv"), "held_out": 0.0}))[0].splits["train"]


@pytest.mark.parametrize("empty", ["", "[]", "[ ]", ",", " | "])
def test_an_image_of_none_of_several_labels(empty, own_folder):
    labels = table(own_folder, ["['a', 'b']", "a|b", "b", empty]).labels
    assert labels.tolist() == [[1, 1], [1, 1], [0, 1], [0, 0]]


def test_a_list_of_none_among_single_labels_is_none(own_folder):
    assert table(own_folder, ["a", "b", "[]"]).labels.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_no_label_among_single_labels_is_refused(own_folder):
    with pytest.raises(DataError, match="line 4"):
        table(own_folder, ["a", "b", ""])
