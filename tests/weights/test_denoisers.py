"""Published weights of generative models are not imported, and what is answered instead works as it is printed."""

import shlex

import pytest
import tiny
import torch

from vitrail.assembly.run_directory import RunFolder
from vitrail.cli.main import main

diffusers = pytest.importorskip("diffusers")
WORDS = ["--steps", "1", "--batch-size", "4", "--runtime.workers", "0", "--precision", "fp32"]


def save_denoiser(folder, channels, size, classes):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, num_layers=1, patch_size=4, in_channels=channels,
        out_channels=2 * channels, sample_size=size, num_embeds_ada_norm=classes,
    )  # fmt: skip
    net.save_pretrained(folder)


@pytest.fixture
def photos(own_folder):
    return tiny.images(own_folder / "photos", each=8, size=32)


def remedy(capsys):
    text = " ".join(capsys.readouterr().err.split())
    assert "which is not imported" in text
    return shlex.split(text.partition("-> vitrail ")[2].partition(" goes on from them")[0])


def test_weights_for_pixels_go_on(photos, own_folder, capsys):
    save_denoiser(own_folder / "weights", 3, 32, 2)
    assert main(["import", "weights", "--out", "m"]) == 4
    words = remedy(capsys)
    words[words.index("FOLDER")] = str(photos)
    assert main([*words, "--out", "run", *WORDS]) == 0
    recipe = RunFolder(own_folder / "run").recipe()
    assert (recipe.model.name.partition("/")[0], recipe.task.name) == ("dit", "diffusion")
    assert recipe.input.mean == (0.5, 0.5, 0.5)


def test_weights_for_latents_need_their_autoencoder(photos, own_folder, capsys):
    save_denoiser(own_folder / "weights", 4, 8, 10)
    diffusers.AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
    ).save_pretrained(own_folder / "vae")  # fmt: skip
    assert main(["train", "--data", str(photos), "--weights", "weights", "--out", "run"]) == 2
    assert "for latents of 4 channels" in " ".join(capsys.readouterr().err.split())
    assert not (own_folder / "run").exists()
    assert main(["import", "weights", "--out", "m"]) == 4
    words = remedy(capsys)
    words[words.index("FOLDER")] = str(photos)
    words[words.index("AUTOENCODER")] = "vae"
    assert main([*words, "--out", "run", *WORDS]) == 0
    recipe = RunFolder(own_folder / "run").recipe()
    assert (recipe.input.channels, recipe.input.size, recipe.input.mean) == (3, (32, 32), (0.5, 0.5, 0.5))
    assert recipe.model.keys["channels"] == 4
