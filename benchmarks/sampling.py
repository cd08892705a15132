"""Our DiT's sampling against diffusers' with the same weights, noise and steps: images for each second of the
processor, as a ratio.

    python benchmarks/sampling.py [--variant small_8] [--batch 4] [--steps 10] [--rounds 7] [--threads 1]

Both go DDIM's way with guidance on all channels; theirs is what its DiTPipeline does, without decoding. First the
results are compared, then each round times both once, in turn; the ratio is of the medians of processor time. "1.3"
says that ours makes 1.3 times as many.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch
from history import append
from torch import Tensor

from vitrail.models import dit
from vitrail.tasks.diffusion import gaussian
from vitrail.tasks.diffusion.guidance import Guidance, guide_model
from vitrail.weights.rules import convert
from vitrail.weights.tables.dit import SOURCES

SCALE = 4.0  # of guidance


def theirs_like(config: dit.Config) -> torch.nn.Module:
    """diffusers' model with weights drawn at random, none of them zero, and the waves and eps of the original."""
    from diffusers import DiTTransformer2DModel

    width = config.width // config.heads
    model = DiTTransformer2DModel(
        config.heads, width, config.channels, 2 * config.channels, num_layers=config.depth, sample_size=config.size[0],
        patch_size=config.patch, num_embeds_ada_norm=config.classes, norm_eps=config.eps,
    )  # fmt: skip
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model.eval()


def ours_like(theirs: torch.nn.Module, config: dit.Config) -> torch.nn.Module:
    model = dit.build(config)
    model.load_state_dict(convert(theirs.state_dict(), SOURCES["diffusers"]).tensors)
    return model.eval()


def their_way(model: torch.nn.Module, labels: Tensor, null: int, steps: int) -> Callable[[Tensor], Tensor]:
    """The loop of DiTPipeline."""
    from diffusers import DDIMScheduler

    both = torch.cat([labels, torch.full_like(labels, null)])

    def sample(noise: Tensor) -> Tensor:
        scheduler = DDIMScheduler(beta_start=1e-4, beta_end=2e-2, clip_sample=False)
        scheduler.set_timesteps(steps)
        x = torch.cat([noise, noise])
        for t in scheduler.timesteps:
            half = x[: len(x) // 2]
            x = scheduler.scale_model_input(torch.cat([half, half]), t)
            out = model(x, timestep=t.expand(len(x)), class_labels=both).sample
            said, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]
            asked, blind = said.chunk(2)
            towards = blind + SCALE * (asked - blind)
            out = torch.cat([torch.cat([towards, towards]), rest], dim=1)
            x = scheduler.step(out.chunk(2, dim=1)[0], t, x).prev_sample
        return x.chunk(2)[0]

    return sample


def our_way(model: torch.nn.Module, labels: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    chain = gaussian.select_places(gaussian.linear_betas(), [i * (gaussian.STEPS // steps) for i in range(steps)])
    denoise = guide_model(model, labels, Guidance(SCALE), chain.times[::-1])

    def sample(noise: Tensor) -> Tensor:
        *_, last = gaussian.ddim_steps(denoise, noise, chain, lambda: noise)
        return last

    return sample


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="small_8", help="of vitrail models dit")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = dataclasses.replace(dit.VARIANTS[given.variant], classes=1000)
    theirs = theirs_like(config)
    labels, noise = torch.randint(1000, (given.batch,)), torch.randn(given.batch, config.channels, *config.size)
    ways = {
        "ours": our_way(ours_like(theirs, config), labels, given.steps),
        "diffusers": their_way(theirs, labels, config.classes, given.steps),
    }
    made = {name: way(noise) for name, way in ways.items()}  # the first time is not timed
    error = float((made["ours"] - made["diffusers"]).norm() / made["diffusers"].norm())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for r in range(given.rounds):
        for name in sorted(ways, reverse=bool(r % 2)):
            start = time.process_time()
            ways[name](noise)
            times[name].append(time.process_time() - start)
    usual = {name: statistics.median(t) for name, t in times.items()}
    rates = {f"{name}, images a second": round(given.batch / t, 3) for name, t in usual.items()}
    figures = {**rates, "ours / diffusers": round(usual["diffusers"] / usual["ours"], 3), "difference": error}
    print(json.dumps({**vars(given), **figures}))
    append("sampling", figures, vars(given))


if __name__ == "__main__":
    main()
