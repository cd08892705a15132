"""Label maps of logits: the class of the largest, whatever the number of classes and of parts."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.inference import windows
from vitrail.inference.windows import most_likely


@pytest.mark.parametrize("classes", [1, 2, 21, 255])
def test_the_largest_logit_and_of_equal_ones_the_first(classes, monkeypatch):
    logits = torch.randn(classes, 12, 9, generator=torch.Generator().manual_seed(0)).mul(3).round()
    logits[:, 4] = 0.0
    scaled = F.interpolate(logits[None], (30, 31), mode="bilinear", align_corners=False)[0]
    assert (torch.from_numpy(most_likely(logits, (30, 31))) == scaled.max(0).indices).all()
    logits[:, :4] = -torch.inf
    expected = logits.max(0).indices
    assert (torch.from_numpy(most_likely(logits, (12, 9))) == expected).all()
    monkeypatch.setattr(windows, "VALUES", 2 * 12 * 9)  # two classes at a time
    assert (torch.from_numpy(most_likely(logits, (12, 9))) == expected).all()
