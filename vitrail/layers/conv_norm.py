"""A convolution followed by a BatchNorm, the unit of LeViT's descendants."""

from torch import nn


class ConvNorm(nn.Sequential):
    """[B C H W] -> [B D h w]: a convolution without bias that keeps the grid (or halves it), and its BatchNorm."""

    def __init__(
        self, eps: float, inside: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, gain: float = 1.0
    ):
        """eps: of the norm; gain: initial value of its weights; 0 makes a residual branch start at zero."""
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, eps)
        nn.init.constant_(self.bn.weight, gain)
