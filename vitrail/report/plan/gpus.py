"""GPUs by name, in the numbers of their makers' data sheets."""

from typing import NamedTuple

REACHED_LINK, REACHED_NETWORK = 0.7, 0.8  # shares of the data sheet's bandwidth that collectives reach


class Gpu(NamedTuple):
    """tflops: bf16, dense; memory_gb; link_gb: GB/s to the others of its machine, one way; network_gbit: of its own
    adapter, Gbit/s."""

    tflops: float
    memory_gb: float
    link_gb: float
    network_gbit: float

    @property
    def link_bytes(self) -> float:
        """Bytes a second that collectives reach within a machine."""
        return self.link_gb * 1e9 * REACHED_LINK

    @property
    def network_bytes(self) -> float:
        """Bytes a second that collectives reach between machines."""
        return self.network_gbit / 8 * 1e9 * REACHED_NETWORK


GPUS = {
    "a100": Gpu(312, 80, 300, 200),
    "h100": Gpu(989, 80, 450, 400),
    "h200": Gpu(989, 141, 450, 400),
    "b200": Gpu(2250, 180, 900, 400),
}
