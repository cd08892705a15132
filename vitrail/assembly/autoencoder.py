"""A diffusers autoencoder from a local folder: images in [-1, 1] to latents and back.

DiT was made for latents (Peebles & Xie 2022, section 3.2; Rombach et al. 2021, arxiv.org/abs/2112.10752). Latents are
shifted and scaled by the numbers in the autoencoder's config, so that their standard deviation is about one.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import CheckpointError, UsageError
from vitrail.facts import LatentShape
from vitrail.recipe import InputConfig, Recipe
from vitrail.storage.json_text import to_json
from vitrail.storage.tensors import digest
from vitrail.validation import as_path

AT_ONCE = 8  # images that are encoded or decoded at a time: one of 256 x 256 takes about 300 MB


class Autoencoder:
    """channels: of images; latents: channels of latents; factor: of downsampling. hash: of weights and config."""

    def __init__(self, net: Any, path: Path):
        config = net.config
        self.net, self.path = net, path
        self.channels, self.latents = int(config.in_channels), int(config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.scale, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        settings = {key: value for key, value in config.items() if not key.startswith("_")}  # no paths or versions
        self.hash = digest(dict(net.state_dict()), json.loads(to_json(settings, default=str)))

    @torch.no_grad()
    def encode_distribution(self, images: Tensor) -> Tensor:
        """Floats in [-1, 1] [B C H W] -> means and standard deviations of their latents, scaled, float32 [B 2 c h
        w]."""
        encoded = []
        with torch.autocast(images.device.type, enabled=False):
            for some in images.float().split(AT_ONCE):
                latent = self.net.encode(some).latent_dist
                encoded.append(torch.stack([(latent.mean - self.shift) * self.scale, latent.std * self.scale], dim=1))
        return torch.cat(encoded)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B c h w] -> images, float32 [B C H W]."""
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat(
                [self.net.decode(some / self.scale + self.shift).sample for some in latents.float().split(AT_ONCE)]
            )


def open_autoencoder(path: Path, device: torch.device | str = "cpu", wanted: str | None = None) -> Autoencoder:
    """The autoencoder in a folder, or in the folder vae/ of a whole pipeline. wanted: the hash that it must have.

    Errors: `UsageError` where diffusers is missing; `CheckpointError` for no autoencoder, a damaged one, or another
    than wanted.
    """
    folder = path / "vae" if (path / "vae/config.json").is_file() else path
    kind = read_class_name(folder)
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise UsageError(
            "autoencoders need diffusers, which is not installed", "pip install 'vitrail[diffusers]'"
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
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the autoencoder in {folder} cannot be read: {reason}",
            "config.json and a .safetensors file of AutoencoderKL.save_pretrained belong there",
        ) from None
    if mismatched := [*about["missing_keys"], *about["unexpected_keys"]]:
        raise CheckpointError(
            f"the weights in {folder} do not fit its config: {', '.join(mismatched[:3])}", "copy both again"
        )
    if net.config.get("latents_mean") or net.config.get("latents_std"):
        raise CheckpointError(
            f"{folder} has latents_mean and latents_std, which are not supported",
            "use one with only a scaling_factor",
        )
    vae = Autoencoder(net.float().eval().requires_grad_(False), path)
    if wanted is not None and vae.hash != wanted:
        raise CheckpointError(
            f"{path} is another autoencoder than the model was trained with",
            f"its hash begins {vae.hash[:12]}, expected {wanted[:12]}; give the folder of that one",
        )
    net.to(device)
    return vae


def read_class_name(folder: Path) -> str:
    """The diffusers class in the config.json of a folder. Errors: `CheckpointError`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("_class_name", ""))
    except OSError:
        raise CheckpointError(
            f"there is no autoencoder in {folder}: no config.json", "give what AutoencoderKL.save_pretrained wrote"
        ) from None
    except (ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is damaged", "copy it again") from None


def resolve_autoencoder(recipe: Recipe, is_generative: bool) -> tuple[Recipe, LatentShape | None]:
    """The recipe with the hash and the absolute path of its autoencoder, and its shape. Errors: `CheckpointError`;
    `UsageError` for a task that generates no images."""
    if recipe.input.vae is not None and not is_generative:
        raise UsageError("input.vae is for generative models", "leave it out, or --model dit/small_2")
    if recipe.input.vae is None:
        if recipe.input.vae_hash is not None:
            raise CheckpointError(
                "the run starts from a model of latents, and its autoencoder was not given",
                "--input.vae FOLDER",
            )
        return recipe, None
    path = as_path(recipe.input.vae).absolute()
    vae = open_autoencoder(path, wanted=recipe.input.vae_hash)
    given = dataclasses.replace(recipe.input, vae=path.as_posix(), vae_hash=vae.hash)
    return dataclasses.replace(recipe, input=given), LatentShape(vae.channels, vae.latents, vae.factor)


def open_own_autoencoder(given: InputConfig, device: torch.device) -> Autoencoder:
    """The autoencoder of a model. Errors: `CheckpointError` where its folder is unknown, or has another autoencoder."""
    if given.vae is None:
        raise CheckpointError(
            "the model makes latents, and this file does not name the folder of its autoencoder", "--vae FOLDER"
        )
    path = as_path(given.vae)
    if not path.is_dir():
        raise CheckpointError(
            f"the autoencoder of the model is not at {path} any more", "--vae FOLDER gives its new place"
        )
    return open_autoencoder(path, device, given.vae_hash)


def relocate_autoencoder(recipe: Recipe, vae: str) -> Recipe:
    """The recipe with its autoencoder in the folder `vae`, if given. Errors: `CheckpointError` for a model without
    one."""
    if not vae:
        return recipe
    if recipe.input.vae_hash is None:
        raise CheckpointError("the model was trained on pixels and has no autoencoder", "leave --vae out")
    return dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, vae=vae))


def build_decoder(given: InputConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from the outputs of a model to images in [-1, 1]: the identity for a model of pixels."""
    return (lambda x: x) if given.vae_hash is None else open_own_autoencoder(given, device).decode
