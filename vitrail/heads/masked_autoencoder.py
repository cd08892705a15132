"""The masked autoencoder (MAE): a backbone that sees some patches of an image, and a light decoder that predicts the
others (He et al. 2021, arxiv.org/abs/2111.06377)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.errors import UsageError
from vitrail.layers.attention import SelfAttention
from vitrail.layers.block import Block, PatchEncoder, needs_whole_grid
from vitrail.layers.norm import norm
from vitrail.layers.patch import grid_of
from vitrail.layers.position import SinCos
from vitrail.shapes import Float, Int
from vitrail.types import Grid, TokenLayout


class Reconstruction(NamedTuple):
    """Of the patches of a batch of images: predicted pixels [B N P], and which of them were masked, bool [B N]."""

    pixels: Tensor
    masked: Tensor


class MaskedAutoencoder(HeadedModel):
    """Images [B C H W] -> the backbone's summaries side by side, [B D], of the whole images; `reconstruct` is what
    training uses. The decoder is a plain ViT's blocks with fixed sine-cosine positions, as published."""

    def __init__(self, backbone: Any, decoder: Any, masked: float):
        """decoder: a config of `vitrail.models.vit`, of which width, depth, heads and eps count. masked: the share of
        the patches that the backbone does not see. Errors: `UsageError` for a backbone that needs all of them."""
        check_backbone(backbone)
        super().__init__(backbone, 0)
        config, width = backbone.config, backbone.map_widths[-1]
        self.patch, self.channels, self.masked = backbone.patch, config.channels, masked
        self.any_size_from = backbone.any_size_from
        grid = grid_of(config.size, self.patch)
        if grid == (1, 1):
            what = f"an image of {config.size[0]}x{config.size[1]} is one patch, and nothing is left to predict"
            raise UsageError(what, f"--model.patch {max(1, min(config.size) // 4)}")
        self.decoder_embed = nn.Linear(width, decoder.width)
        self.mask_token = nn.Parameter(torch.empty(1, decoder.width))
        self.position = SinCos(grid, decoder.width)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder, 0.0, SelfAttention(decoder.width, decoder.heads)) for _ in range(decoder.depth)
        )
        self.decoder_norm = norm("layer", decoder.width, decoder.eps)
        self.decoder_pred = nn.Linear(decoder.width, self.patch[0] * self.patch[1] * self.channels)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            initialise_xavier(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        return torch.cat(self.backbone(images).summaries, dim=1)

    def grid(self, images: Float[Tensor, "B C H W"]) -> Grid:
        """The grid of patches of such images."""
        return grid_of((images.shape[-2], images.shape[-1]), self.patch)

    def reconstruct(self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"]) -> Reconstruction:
        """The patches with the least noise are seen, those with the most are masked; all are predicted."""
        grid = self.grid(images)
        count = grid[0] * grid[1]
        seen = max(1, min(count - 1, int(count * (1 - self.masked))))
        visible = noise.argsort(dim=1)[:, :seen]
        masked = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
        encoder: Any = self.backbone
        tokens, layout = encoder.encode_visible(self.hide(images, masked, grid), visible)
        return Reconstruction(self.decode(tokens, layout, visible), masked)

    def hide(self, images: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """The images with zeros in masked patches: a stem of convolutions must not see them from their neighbours."""
        cells: Tensor = (~masked).to(images).unflatten(1, grid)  # [B h w]
        cells = cells[:, None]
        pixels = cells.repeat_interleave(self.patch[0], 2).repeat_interleave(self.patch[1], 3)
        return images * pixels[..., : images.shape[-2], : images.shape[-1]]

    def decode(self, tokens: Tensor, layout: TokenLayout, visible: Int[Tensor, "B n"]) -> Float[Tensor, "B N P"]:
        """The tokens of the visible patches, and mask tokens in the place of the others, to the pixels of all."""
        x = self.decoder_embed(tokens)
        leading, width = layout.leading, x.shape[-1]
        cells = self.mask_token.to(x).expand(len(x), layout.grid[0] * layout.grid[1], width)
        cells = cells.scatter(1, visible[..., None].expand(-1, -1, width), x[:, leading:])
        x = torch.cat([x[:, :leading], cells + self.position.encoding(layout.grid)], dim=1)
        whole = TokenLayout(layout.grid, layout.stride, leading, layout.summaries)
        for block in self.decoder_blocks:
            x = block(x, whole)
        pixels: Tensor = self.decoder_pred(self.decoder_norm(x))[:, leading:]
        return pixels

    def patches(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N P"]:
        """The pixels of every patch in raster order: rows, columns, then channels. Borders are padded with zeros."""
        (height, width), (down, across) = self.patch, self.grid(images)
        below, right = down * height - images.shape[-2], across * width - images.shape[-1]
        x = F.pad(images, (0, right, 0, below)).unflatten(3, (across, width)).unflatten(2, (down, height))
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def unpatch(self, pixels: Float[Tensor, "B N P"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
        """The images of `size` (height, width) of such patches."""
        down, across = grid_of(size, self.patch)
        x = pixels.unflatten(1, (down, across)).unflatten(3, (*self.patch, self.channels))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)[..., : size[0], : size[1]]


def check_backbone(backbone: Any) -> None:
    """Errors: `UsageError` for a backbone that needs every patch."""
    name = type(backbone).__name__
    if not isinstance(backbone, PatchEncoder):
        raise UsageError(f"a {name} cannot encode some patches alone", "--model vit/nano")
    if backbone.has_summary_layers:
        what = f"the summary of this {name} passes layers (pool attention, or pre_logits) that would stay random"
        raise UsageError(what, "--model.pool mean --model.pre-logits 0, or --model vit/nano")
    if needed := needs_whole_grid(backbone.blocks):
        what = f"this {name} has {needed}, for which every patch must be there"
        raise UsageError(what, 'a model without: --model vit/nano, of position "sincos2d", "learned" or "rope"')


def initialise_xavier(part: nn.Module) -> None:
    """Linear layers as published: Xavier-uniform, biases zero."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
