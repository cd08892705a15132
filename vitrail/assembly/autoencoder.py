"""An autoencoder of diffusers' from a folder on this machine: images in [-1, 1] to latents and back.

DiT was made for latents (Peebles & Xie 2022, section 3.2; Rombach et al. 2021, arxiv.org/abs/2112.10752). Latents are moved and scaled by
the numbers in the autoencoder's own config, so that what a denoiser learns has a spread of about one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import CheckpointError, UsageError
from vitrail.storage.tensors import digest

AT_ONCE = 8  # images that are encoded or decoded at a time: one of 256 x 256 takes some 300 MB on the way


class Autoencoder:
    """channels: of images; latents: channels of latents; factor: by which their sides are smaller. hash: of weights and config."""

    def __init__(self, net: Any, path: Path):
        config = net.config
        self.net, self.path = net, path
        self.channels, self.latents = int(config.in_channels), int(config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.scale, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        said = {key: value for key, value in config.items() if not key.startswith("_")}  # without paths and versions
        self.hash = digest(dict(net.state_dict()), json.loads(json.dumps(said, default=str)))

    @torch.no_grad()
    def encode_moments(self, images: Tensor) -> Tensor:
        """Floats in [-1, 1] [B C H W] -> means and standard deviations of their latents, scaled, float32 [B 2 c h w]."""
        found = []
        with torch.autocast(images.device.type, enabled=False):
            for some in images.float().split(AT_ONCE):
                said = self.net.encode(some).latent_dist
                found.append(torch.stack([(said.mean - self.shift) * self.scale, said.std * self.scale], dim=1))
        return torch.cat(found)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B c h w] -> images, float32 [B C H W]."""
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat(
                [self.net.decode(some / self.scale + self.shift).sample for some in latents.float().split(AT_ONCE)]
            )


def open_autoencoder(path: Path, device: torch.device | str = "cpu", wanted: str | None = None) -> Autoencoder:
    """The autoencoder in a folder, or in the folder vae/ of a whole pipeline. wanted: the hash that it must have.

    Errors: `UsageError` where diffusers is missing; `CheckpointError` for no autoencoder, a damaged one, or another than wanted.
    """
    folder = path / "vae" if (path / "vae/config.json").is_file() else path
    kind = named(folder)
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise UsageError(
            "autoencoders are read by diffusers, which is not installed", "pip install 'vitrail[diffusers]'"
        ) from None
    if kind != "AutoencoderKL":
        raise CheckpointError(
            f"{folder} holds a {kind or 'model without a name'}, not an AutoencoderKL", "give the folder of one"
        )
    try:
        net, about = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # whatever a damaged file makes a library raise
        raise CheckpointError(f"the autoencoder in {folder} cannot be read: {' '.join(str(error).split())[:200]}",
                              "config.json and a .safetensors file of AutoencoderKL.save_pretrained belong there") from None  # fmt: skip
    if lost := [*about["missing_keys"], *about["unexpected_keys"]]:
        raise CheckpointError(
            f"the weights in {folder} do not fit its config: {', '.join(lost[:3])}", "copy both again"
        )
    if net.config.get("latents_mean") or net.config.get("latents_std"):
        raise CheckpointError(
            f"{folder} has latents_mean and latents_std, which are not known here",
            "take one with a scaling_factor alone",
        )
    made = Autoencoder(net.float().eval().requires_grad_(False), path)
    if wanted is not None and made.hash != wanted:
        raise CheckpointError(f"{path} is another autoencoder than the model was trained with",
                              f"its hash begins {made.hash[:12]}, wanted is {wanted[:12]}; give the folder of that one")  # fmt: skip
    net.to(device)
    return made


def named(folder: Path) -> str:
    """Which class of diffusers' a folder says that it holds. Errors: `CheckpointError`."""
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(said.get("_class_name", ""))
    except OSError:
        raise CheckpointError(
            f"there is no autoencoder in {folder}: no config.json", "give what AutoencoderKL.save_pretrained wrote"
        ) from None
    except (ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is damaged", "copy it again") from None
