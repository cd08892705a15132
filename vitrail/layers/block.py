"""The block of a plain ViT (Dosovitskiy et al. 2020, equations 2 and 3), the same with tokens merged in between, and
what a backbone of such blocks can do with some of the patches alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.layers.attention import SelfAttention
from vitrail.layers.drop import DropPath, SkipPath
from vitrail.layers.merge import merge_tokens
from vitrail.layers.mlp import Mlp, SwiGLU
from vitrail.layers.norm import layer_scale, norm
from vitrail.layers.windows import Windows, attend_tokens, local_depths
from vitrail.shapes import Float, Int
from vitrail.types import TokenLayout


class TwoBranches(nn.Module, ABC):
    """x + attention, x + MLP; each branch with its norm, LayerScale and stochastic depth."""

    def __init__(self, config: Any, drop_path: float, attn: SelfAttention):
        """config: that of `vitrail.models.vit`, or one with the same fields."""
        super().__init__()
        self.norm_at, self.residual = config.norm_at, config.residual
        self.norm1, self.norm2 = (block_norm(config) for _ in range(2))
        self.attn = attn
        self.mlp: nn.Module = feed_forward(config)
        self.ls1, self.ls2 = (layer_scale(config.width, config.layer_scale) for _ in range(2))
        self.drop_path = drop_part(config, drop_path)

    @abstractmethod
    def forward(self, *args: Any) -> Any:
        """Both branches of tokens [B N D], of which the layout is given."""

    def attend(self, x: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        """x + attention."""
        if self.norm_at == "branch":
            return self.join(x, lambda y: self.ls1(self.norm1(attention(y))))
        if self.norm_at == "post":
            normed: Tensor = self.norm1(self.join(x, lambda y: self.ls1(attention(y))))
            return normed
        return self.join(x, lambda y: self.ls1(attention(self.norm1(y))))

    def feed(self, x: Tensor) -> Tensor:
        """x + MLP."""
        if self.norm_at == "branch":
            return self.join(x, lambda y: self.ls2(self.norm2(self.mlp(y))))
        if self.norm_at == "post":
            normed: Tensor = self.norm2(self.join(x, lambda y: self.ls2(self.mlp(y))))
            return normed
        return self.join(x, lambda y: self.ls2(self.mlp(self.norm2(y))))

    def join(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if isinstance(self.drop_path, SkipPath):
            both: Tensor = self.drop_path(x, branch)
            return both
        y: Tensor = self.drop_path(branch(x))
        return x + y if self.residual else y


class Block(TwoBranches):
    """All tokens attend to each other, or with `windows` the patches inside every window."""

    windows: Windows | None = None  # of a local block

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = self.attend(x, lambda y: attend_tokens(self.attn, y, layout, self.windows))
        return self.feed(x)


class MergingBlock(TwoBranches):
    """After the attention the most similar tokens are merged (Bolya et al. 2022, figure 2)."""

    def forward(self, x: Tensor, layout: TokenLayout, count: int) -> tuple[Tensor, TokenLayout]:
        """The tokens that are left, and their layout. count: how many are merged."""
        keys = []

        def attention(y: Tensor) -> Tensor:
            inputs = self.attn.project(y, layout)
            keys.append(inputs.keys)
            out: Tensor = self.attn(inputs, layout)
            return out

        x = self.attend(x, attention)
        x, layout = merge_tokens(x, layout, keys[0], count)
        return self.feed(x), layout


class PatchEncoder(ABC):
    """A backbone whose blocks take any subset of the patches, as masked autoencoders need it."""

    patch: tuple[int, int]  # height and width in pixels
    blocks: nn.ModuleList
    has_summary_layers: bool  # whether its summaries pass layers with weights that the tokens do not, such as a pool

    @abstractmethod
    def encode_visible(
        self, images: Float[Tensor, "B C H W"], visible: Int[Tensor, "B n"]
    ) -> tuple[Float[Tensor, "B N D"], TokenLayout]:
        """The tokens after the last norm, of the leading ones and the visible patches (indices in raster order) alone,
        and their layout."""


def set_windows(blocks: nn.ModuleList, window: int, global_blocks: tuple[int, ...]) -> None:
    """Gives all but the global blocks windows of so many patches along a side; 0: none."""
    local = local_depths(window, global_blocks, len(blocks))
    for number, block in enumerate(blocks.children(), start=1):
        if isinstance(block, Block) and number in local:
            block.windows = Windows((window, window))


def drop_part(config: Any, drop_path: float) -> DropPath | SkipPath:
    if config.drop_path_skip and not config.residual:
        what = "drop_path_skip drops whole branches, so residual must not be false"
        raise UsageError(what, "use drop_path_skip false")
    return SkipPath(drop_path) if config.drop_path_skip else DropPath(drop_path)


def block_norm(config: Any) -> nn.Module:
    return nn.Identity() if config.norm_at == "none" else norm(config.norm, config.width, config.eps)


def feed_forward(config: Any) -> Mlp | SwiGLU:
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    if config.mlp == "swiglu":
        return SwiGLU(width, hidden, config.dropout)
    return Mlp(width, hidden, config.gelu, config.dropout)


def needs_whole_grid(blocks: nn.Module) -> str:
    """What in some blocks depends on every patch being there; "" where nothing does."""
    for module in blocks.modules():
        if isinstance(module, SelfAttention) and module.relative is not None:
            return "a bias of relative positions"
        if isinstance(module, SelfAttention) and module.neighbourhood is not None:
            return "an attention radius"
        if isinstance(module, MergingBlock):
            return "merging of tokens"
        if isinstance(module, Block) and module.windows is not None:
            return "windows"
    return ""
