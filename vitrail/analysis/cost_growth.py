"""What one model costs at several sizes of image, and how that grows."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

GROWING = ("macs", "attention_bytes", "activation_bytes")


class Grown(NamedTuple):
    """What one model costs at every size, each a `Cost`."""

    name: str
    costs: Sequence[Any]

    def powers(self) -> dict[str, float | None]:
        """p for everything that grows as pixels^p."""
        from vitrail.analysis.cost import fit_exponent

        return {name: fit_exponent(self.costs, name) for name in GROWING}

    def entries(self) -> list[dict[str, Any]]:
        """For JSON: one for each size."""
        several = {"grows_as_pixels_to": self.powers()} if len(self.costs) > 1 else {}
        return [{"model": self.name, **dataclasses.asdict(cost), **several} for cost in self.costs]
