"""Our ViT-S/16 against timm's, transformers' and torchvision's: a training step and inference, in alternation, as
ratios.

    python benchmarks/train_step.py [--batch 4] [--rounds 12] [--device cpu]

Absolute times mean nothing on a shared machine; each round times everyone once, in an order that rotates, and the ratio
is of the medians. "1.02" says that ours does 1.02 times as many images a second as that peer.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from history import append
from torch import nn

import vitrail


def ours() -> nn.Module:
    return vitrail.create("vit/small", classes=1000)


def theirs_timm() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch16_224", num_classes=1000)


def theirs_torchvision() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(image_size=224, patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)


class Logits(nn.Module):
    """transformers returns an object; the others return logits."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536,
                           num_labels=1000,
                           layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
                           attention_probs_dropout_prob=0.0, attn_implementation="sdpa")  # fmt: skip
        self.model = ViTForImageClassification(config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "ours": ours,
    "timm": theirs_timm,
    "torchvision": theirs_torchvision,
    "transformers": Logits,
}


def train_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def compare(what: Callable[..., Callable[[], None]], batch: int, rounds: int, device: str) -> dict[str, float]:
    """Images a second of each, from the median of the rounds."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)
    steps = {name: what(make().to(device), images, labels) for name, make in MAKERS.items()}
    names = list(steps)
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            start = time.perf_counter()
            steps[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: batch / statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    figures = {}
    for what in (train_step, inference):
        speed = compare(what, given.batch, given.rounds, given.device)
        ratios = {f"ours / {name}": round(speed["ours"] / value, 3) for name, value in speed.items() if name != "ours"}
        print(json.dumps({"what": what.__name__, "batch": given.batch, "rounds": given.rounds, **ratios}))
        figures[what.__name__] = ratios
    append("train_step", figures, vars(given))


if __name__ == "__main__":
    main()
