"""JiT: back to basics, let denoising generative models denoise (Li & He 2025, arxiv.org/abs/2511.13720).

A denoiser in pixel space, without an autoencoder: large patches through a bottleneck, and the prediction is the clean
image, not the noise, since images lie on a low-dimensional manifold. Time and class act as in DiT; the class is also
added as in-context tokens, from a middle block on. Norms are RMSNorm, also of queries and keys, the MLP is SwiGLU, and
positions are encoded twice, by a sin-cos table and by RoPE. `nano` and `tiny` are for small images.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.layers.adaln import ClassEmbed, Conditioning, Modulation, PatchOut, TimeEmbed, initialise, modulate
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.init import ignore_empty
from vitrail.layers.norm import norm
from vitrail.layers.patch import grid_of
from vitrail.layers.position import SinCos, check_width
from vitrail.layers.rotary import Rotation, axis_angles, rotate
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.models.dit import AdaLNDenoiser
from vitrail.shapes import Float
from vitrail.types import Grid, TokenLayout
from vitrail.validation import Count, Positive

KIND = "denoiser"


@dataclass(frozen=True)
class Config:
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0  # SwiGLU's hidden layer is two thirds of it
    patch: int = 16
    size: tuple[int, int] = (256, 256)  # (height, width) of the position tables; any other size works too
    channels: int = 3
    classes: Count = 1000  # label `classes` is "no class"; 0: unconditional
    bottleneck: Positive = 128  # width of the first linear layer over a patch
    context: Count = 32  # class tokens
    context_start: Count = 4  # the first block that has them
    dropout: float = 0.0  # of the middle half of the blocks
    eps: float = 1e-6
    rope_base: float = 10000.0


VARIANTS = {
    "nano":     Config(width=128, depth=6, heads=4, bottleneck=16, context=4, context_start=2, patch=4, size=(28, 28)),
    "nano_7":   Config(width=128, depth=6, heads=4, bottleneck=32, context=4, context_start=2, patch=7, size=(28, 28)),
    "tiny":     Config(width=192,  depth=12, heads=3,  bottleneck=32,  context=8, patch=4, size=(32, 32)),
    "base_16":  Config(width=768,  depth=12, heads=12, bottleneck=128),
    "base_32":  Config(width=768,  depth=12, heads=12, bottleneck=128, patch=32, size=(512, 512)),
    "base_64":  Config(width=768,  depth=12, heads=12, bottleneck=128, patch=64, size=(1024, 1024)),
    "large_16": Config(width=1024, depth=24, heads=16, bottleneck=128, context_start=8),
    "large_32": Config(width=1024, depth=24, heads=16, bottleneck=128, context_start=8, patch=32, size=(512, 512)),
    "large_64": Config(width=1024, depth=24, heads=16, bottleneck=128, context_start=8, patch=64, size=(1024, 1024)),
    "huge_16":  Config(width=1280, depth=32, heads=16, bottleneck=256, context_start=10, dropout=0.2),
    "huge_32":  Config(width=1280, depth=32, heads=16, bottleneck=256, context_start=10, dropout=0.2, patch=32,
                       size=(512, 512)),
    "huge_64":  Config(width=1280, depth=32, heads=16, bottleneck=256, context_start=10, dropout=0.2, patch=64,
                       size=(1024, 1024)),
    "giant_16": Config(width=1664, depth=40, heads=16, bottleneck=256, context_start=10, dropout=0.2),
    "giant_32": Config(width=1664, depth=40, heads=16, bottleneck=256, context_start=10, dropout=0.2, patch=32,
                       size=(512, 512)),
    "giant_64": Config(width=1664, depth=40, heads=16, bottleneck=256, context_start=10, dropout=0.2, patch=64,
                       size=(1024, 1024)),
}  # fmt: skip


class BottleneckEmbed(nn.Module):
    """Images [B C H W] -> patches [B h w D] through a low-rank bottleneck: two linear layers with nothing between
    them."""

    def __init__(self, config: Config):
        super().__init__()
        self.patch = config.patch
        self.proj1 = nn.Conv2d(config.channels, config.bottleneck, config.patch, config.patch, bias=False)
        self.proj2 = nn.Conv2d(config.bottleneck, config.width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        below, right = -x.shape[-2] % self.patch, -x.shape[-1] % self.patch
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.proj2(self.proj1(x)).permute(0, 2, 3, 1)  # [B D h w] -> [B h w D]


class RowsThenColumns(Rotation):
    """The first half of a head is rotated by the row, the second by the column."""

    def __init__(self, config: Config, grid: Grid):
        super().__init__()
        self.grid, self.bands, self.base = grid, config.width // config.heads // 4, config.rope_base

    def angles(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        y, x = (axis_angles(count, self.bands, self.base, device) for count in grid)
        return torch.cat([y.repeat_interleave(grid[1], dim=0), x.repeat(grid[0], 1)], dim=1)


class RotaryAttention(Attention):
    """Self-attention whose queries and keys are normed, then rotated by their positions."""

    def __init__(self, config: Config, dropout: float):
        super().__init__(config.width, config.heads, dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_norm, self.k_norm = (norm("rms", config.width // config.heads, config.eps) for _ in range(2))

    def project(self, x: Tensor, layout: TokenLayout, angles: Tensor) -> AttentionInputs:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))  # [B h N d]
        q, k = self.q_norm(q.float()), self.k_norm(k.float())  # in float32 the norm bounds the logits
        q, k = (rotate(t, angles, "interleaved").to(v.dtype) for t in (q, k))
        return AttentionInputs(q, k, v)

    def locate(self, x: Tensor, layout: TokenLayout, angles: Tensor) -> AttentionLayout:
        return self_attention_layout(layout)


class FeedForward(nn.Module):
    """SwiGLU, with dropout of the hidden layer only."""

    def __init__(self, config: Config, dropout: float):
        super().__init__()
        hidden = int(int(config.width * config.mlp_ratio) * 2 / 3)
        self.w12 = nn.Linear(config.width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.w3 = nn.Linear(hidden, config.width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.dropout(F.silu(gate) * value))


class Block(nn.Module):
    """x + gate attention, x + gate feed-forward, on norms that the conditioning shifts and scales."""

    def __init__(self, config: Config, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = (norm("rms", config.width, config.eps) for _ in range(2))
        self.attn = RotaryAttention(config, dropout)
        self.mlp = FeedForward(config, dropout)
        self.modulation = Modulation(config.width, 6)

    def forward(self, x: Tensor, moves: Tensor, layout: TokenLayout, angles: Tensor) -> Tensor:
        """moves: the output of `modulation` for the conditioning."""
        shift1, scale1, gate1, shift2, scale2, gate2 = moves.chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), layout, angles))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class JiT(AdaLNDenoiser):
    """Noisy images [B C H W], times [B] from 0 (noise) to 1 (image), labels [B] -> clean images [B C H W]."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = check_config(config)
        width = config.width
        self.patch_embed = BottleneckEmbed(config)
        self.position = SinCos(grid_of(config.size, (config.patch, config.patch)), width)
        self.time = TimeEmbed(width)
        self.label = ClassEmbed(config.classes, width)
        self.null = self.label.null
        # positions of the class tokens
        self.context = nn.Parameter(torch.empty(config.context, width)) if config.context else None
        self.rotation = RowsThenColumns(config, self.position.grid)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in dropouts(config))
        self.out = PatchOut(norm("rms", width, config.eps), width, config.patch, config.channels)
        initialise(self)
        if self.context is not None:
            nn.init.normal_(self.context, std=0.02)
        ignore_empty(self)

    def denoise(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """The clean images of noisy ones [B C H W], given the `condition` of their times and classes."""
        tokens, leading = self.position(self.patch_embed(x)), self.config.context  # [B h w D]
        layout = TokenLayout((tokens.shape[1], tokens.shape[2]), (self.config.patch, self.config.patch))
        angles = self.rotation.angles(layout.grid, x.device)  # [hw d/2]
        tokens = tokens.flatten(1, 2).contiguous()  # [B hw D]; contiguous, or every norm would copy it
        for i, (block, moves) in enumerate(zip(self.blocks, conditioning.moves, strict=False)):
            if i == self.config.context_start and self.context is not None:
                tokens = torch.cat([conditioning.label[:, None] + self.context, tokens], dim=1)  # [B M+hw D]
                layout = layout._replace(leading=leading)
                angles = F.pad(angles, (0, 0, leading, 0))  # class tokens are not rotated
            tokens = block(tokens, moves, layout, angles)
        return self.out(tokens[:, leading:], conditioning.moves[-1], (x.shape[2], x.shape[3]))


def check_config(config: Config) -> Config:
    """Errors: `UsageError` for head widths that RoPE cannot rotate, and class tokens that no block would have."""
    check_width(config.width // config.heads, 4, "axial RoPE (width of one head)")
    if config.context and config.context_start >= config.depth:
        raise UsageError(
            f"context_start {config.context_start} is beyond the last of {config.depth} blocks",
            "use a smaller one, or context 0",
        )
    return config


def dropouts(config: Config) -> list[float]:
    """The dropout rate of each block: 0 in the first and the last quarter."""
    quarter = config.depth // 4
    return [config.dropout if quarter <= i < 3 * quarter else 0.0 for i in range(config.depth)]


def build(config: Config) -> JiT:
    """A JiT, freshly initialised."""
    return JiT(config)
