"""The cost of a model at several image sizes, and its growth."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

GROWING = ("macs", "attention_bytes", "activation_bytes")


class Grown(NamedTuple):
    """The cost of one model at every size, each a `Cost`."""

    name: str
    costs: Sequence[Any]

    def powers(self) -> dict[str, float | None]:
        """The exponent p of every field that grows as pixels^p."""
        from vitrail.analysis.cost import fit_exponent

        return {name: fit_exponent(self.costs, name) for name in GROWING}

    def entries(self) -> list[dict[str, Any]]:
        """Entries for JSON, one for each size."""
        several = {"grows_as_pixels_to": self.powers()} if len(self.costs) > 1 else {}
        return [{"model": self.name, **dataclasses.asdict(cost), **several} for cost in self.costs]
