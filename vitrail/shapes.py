"""Shapes in annotations: `Float[Tensor, "B N D"]` is a tensor of floats with three axes; equal letters: equal lengths.

To Python and mypy these names are `typing.Annotated`, which costs nothing and checks nothing. The tests put jaxtyping's
classes of the same names in their place and check every call into layers, heads and models (`tests/doors.py`), so
users of vitrail do not need jaxtyping.
"""

from typing import Annotated as Bool
from typing import Annotated as Float
from typing import Annotated as Int
from typing import Annotated as Shaped

__all__ = ["Bool", "Float", "Int", "Shaped"]  # Shaped: of any kind of number
