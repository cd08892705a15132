"""Conditioning of a denoiser on time and class: one vector [B D] that shifts and scales the input of every block.

Source: adaLN-Zero of DiT (Peebles & Xie 2022, section 3.2), the sinusoidal time embedding as in ADM (Dhariwal & Nichol
2021).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.patch import grid_of
from vitrail.shapes import Float, Shaped

WAVES = 256  # width of the sinusoidal embedding, half of it cosines
LONGEST = 10_000.0  # the longest wavelength is nearly this times 2 pi


def time_embedding(t: Shaped[Tensor, " B"]) -> Float[Tensor, "B 256"]:
    """Times [B] -> [B 256], float32: cosines, then sines, omega_k = 10000^(-k/128). DiT counts 0 to 999, JiT goes from
    0 to 1."""
    half = WAVES // 2
    # float64 does not exist on every accelerator
    where = t.device if t.device.type in ("cpu", "cuda", "meta") else "cpu"
    powers = -math.log(LONGEST) * torch.arange(half, dtype=torch.float32, device=where) / half
    # rounded once: at 999 the differences of float32 exp between machines would matter
    omega = powers.double().exp().float().to(t.device)
    angles = t[:, None].float() * omega  # [B 128]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbed(nn.Module):
    """Times [B] -> [B D]: the sinusoidal embedding through two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(WAVES, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: Shaped[Tensor, " B"]) -> Float[Tensor, "B D"]:
        c: Tensor = self.fc2(F.silu(self.fc1(time_embedding(t).to(self.fc1.weight.dtype))))
        return c


class ClassEmbed(nn.Embedding):
    """Labels [B] -> [B D]. The last row, at `null`, is "no class"; without classes it is the only one."""

    def __init__(self, classes: int, width: int):
        super().__init__(classes + 1, width)
        self.null = classes


class Modulation(nn.Module):
    """The conditioning [B D] -> `parts` concatenated vectors [B 1 parts*D]: shifts, scales and gates, initially
    zero."""

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.linear = nn.Linear(width, parts * width)

    def forward(self, c: Float[Tensor, "B D"]) -> Float[Tensor, "B 1 P"]:
        moves: Tensor = self.linear(c)
        return moves[:, None]


class Conditioning(NamedTuple):
    """A denoiser's conditioning on times and classes, independent of the images, so that it can be computed once for
    many."""

    moves: tuple[Tensor, ...]  # the `Modulation` of every block [B 1 6D], and of the output last [B 1 2D]
    label: Tensor  # embedding of the class alone [B D]

    def select(self, which: Tensor | slice) -> "Conditioning":
        """The same for other images, by their indices, int64 [B'] or a slice."""
        return Conditioning(tuple(each[which] for each in self.moves), self.label[which])


def modulate(
    x: Float[Tensor, "B N D"], shift: Float[Tensor, "B 1 D"], scale: Float[Tensor, "B 1 D"]
) -> Float[Tensor, "B N D"]:
    """x (1 + scale) + shift, for x [B N D] and the others [B 1 D]."""
    return torch.addcmul(shift, x, 1 + scale)


class PatchOut(nn.Module):
    """Tokens [B hw D] and the output of `modulation` -> an image [B C H W], cropped to `size` from whole patches;
    initially zero."""

    def __init__(self, norm: nn.Module, width: int, patch: int, channels: int):
        super().__init__()
        self.patch, self.channels = patch, channels
        self.norm = norm
        self.modulation = Modulation(width, 2)
        self.linear = nn.Linear(width, patch * patch * channels)

    def forward(
        self, x: Float[Tensor, "B N D"], moves: Float[Tensor, "B 1 2*D"], size: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        shift, scale = moves.chunk(2, dim=-1)
        x = self.linear(modulate(self.norm(x), shift, scale))  # [B hw ppC], the channel is the fastest axis
        image = unpatchify(x, grid_of(size, (self.patch, self.patch)), self.patch)
        return image[..., : size[0], : size[1]]


def unpatchify(patches: Float[Tensor, "B N ppC"], grid: tuple[int, int], patch: int) -> Float[Tensor, "B C H W"]:
    """Patches [B hw ppC] in raster order -> [B C hp wp]."""
    x: Tensor = patches.unflatten(1, grid).unflatten(-1, (patch, patch, -1))  # [B h w p p C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # [B C h p w p] -> [B C hp wp]


def initialise(root: nn.Module) -> None:
    """DiT's initialisation: linear layers and patches Xavier-uniform, biases zero, time and classes N(0, 0.02), and
    every modulation and the last layer zero, so that each block is the identity and the output is zero."""
    for m in root.modules():
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(m.weight.flatten(1))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for m in root.modules():
        if isinstance(m, TimeEmbed):
            nn.init.normal_(m.fc1.weight, std=0.02)
            nn.init.normal_(m.fc2.weight, std=0.02)
        elif isinstance(m, ClassEmbed):
            nn.init.normal_(m.weight, std=0.02)
        elif isinstance(m, Modulation | PatchOut):
            nn.init.zeros_(m.linear.weight)
