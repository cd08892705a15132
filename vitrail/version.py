"""The version, in one place, and those of what a result depends on."""

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    import torch

    return {"vitrail": __version__, "torch": torch.__version__, "python": platform.python_version()}
