"""Small models of every kind of answer, in folders."""

from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import save_model
from vitrail.recipe import Choice, InputConfig, Recipe

CLASSES = ("ant", "bee", "cow")
TASKS = {
    "classes": ("classification", {}), "masks": ("segmentation", {"head": "linear"}),
    "boxes": ("detection", {"queries": 6, "width": 16, "heads": 2, "decoder": 1, "hidden": 16}),
}  # fmt: skip


def model_folder(folder, task, **keys):
    """A model folder of random weights, the same ones every time."""
    import torch

    torch.manual_seed(0)
    given = {"size": (16, 16), "channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3, **keys}
    model = Choice("vit/nano", {"width": 32, "depth": 1, "heads": 2, "patch": 4, "stem": "patch"})
    return save_model(
        assemble_model(Recipe(model=model, task=Choice(*task), input=InputConfig(**given)), CLASSES), folder, None
    )
