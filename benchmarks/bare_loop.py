"""A training loop with nothing around it: timm's ViT and loader on folders of classes. The peer of `product_data.py`.

    python benchmarks/bare_loop.py FOLDER --size 96 --patch 16 --batch 16 --epochs 2 [--crop]

FOLDER has train/CLASS and val/CLASS. It trains with AdamW and a cosine, evaluates half-way and at the end as `vitrail
train` does, and saves the weights; it measures nothing of the data, chooses nothing and reports nothing.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader

WIDTH, DEPTH, HEADS = 96, 3, 3


def loader(given: argparse.Namespace, part: str) -> DataLoader:
    is_training = part == "train"
    return create_loader(create_dataset("folder", given.folder, split=part), (3, given.size, given.size), given.batch,
                         is_training=is_training, num_workers=0, interpolation="bilinear", no_aug=not given.crop,
                         color_jitter=None, scale=(0.35, 1.0), device=torch.device("cpu"), pin_memory=False,
                         persistent_workers=False)  # fmt: skip


def evaluate(model: VisionTransformer, batches: DataLoader) -> float:
    model.eval()
    with torch.inference_mode():
        right = [model(images).argmax(1) == labels for images, labels in batches]
    model.train()
    return float(torch.cat(right).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name in ("--size", "--patch", "--batch", "--epochs"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--crop", action="store_true", help="random crops and flips")
    given = parser.parse_args()
    torch.manual_seed(0)
    batches, held_out = loader(given, "train"), loader(given, "val")
    classes = len(list((Path(given.folder) / "train").iterdir()))
    model = VisionTransformer(given.size, given.patch, 3, classes, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs * len(batches))
    for epoch in range(given.epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch + 1 in (given.epochs // 2, given.epochs):
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}, top-1 {evaluate(model, held_out):.4f}")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "weights.pt")


if __name__ == "__main__":
    main()
