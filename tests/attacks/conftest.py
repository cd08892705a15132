"""Lets the tests of this folder import `descriptions`, and `tiny`, which lies beside the tests of faults."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "faults")]
