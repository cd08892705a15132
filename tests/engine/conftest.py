"""Lets the tests of this folder import `tiny`, which lies beside the tests of faults."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
