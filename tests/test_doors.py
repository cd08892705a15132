"""The doors of layers, heads and models are watched while tests run, and only then."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from vitrail.heads.linear import Classifier
from vitrail.layers.mlp import Mlp
from vitrail.models import vit


def test_a_wrong_shape_or_kind_of_number_is_named():
    model = vit.build(vit.Config(width=8, depth=1, heads=1, patch=4, size=(8, 8)))
    with pytest.raises(TypeCheckError, match=r"images"):
        model(torch.randn(3, 8, 8))
    with pytest.raises(TypeCheckError, match=r"images"):
        Classifier(model, 2)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeCheckError, match=r"form"):
        Mlp(8, 8, form=0.5)


def test_users_pay_nothing_for_it():
    """Outside the tests a shape is a note in an annotation, and none of the packages that read it is imported."""
    code = """import sys
from vitrail.models.vit import ViT
print(ViT.forward.__annotations__['images'], {'jaxtyping'} & {*sys.modules})"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "typing.Annotated[torch.Tensor, 'B C H W'] set()"
