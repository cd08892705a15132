"""Whole published models, head included: what transformers and the original repositories write comes in by its names
and shapes alone, with their numbers."""

import dataclasses
import json

import pytest
import tiny
import torch
import torch.nn.functional as F
from oracles import stir
from safetensors.torch import load_file, save_file
from torch import nn

from vitrail.assembly import load
from vitrail.cli.main import main
from vitrail.errors import CheckpointError
from vitrail.recipe import AugmentConfig, Choice, InitConfig
from vitrail.weights.heads import detr
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.whole import find_whole_model

CLASSES = ["N/A", "cat", "N/A", "dog", "fox"]


def close(ours, theirs, limit=1e-5):
    assert (ours - theirs).norm() <= limit * theirs.norm()


def stirred(model):
    """Nothing at zero or one, and running statistics as of some data."""
    stir(model)
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            b.normal_(0, 0.1)
        elif name.endswith("running_var"):
            b.uniform_(0.5, 1.5)
    return model


def their_detr(block="bottleneck", **keys):
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    widths = [8, 16, 32, 64] if block == "basic" else [32, 64, 128, 256]
    stages = ResNetConfig(
        embedding_size=8, hidden_sizes=widths, depths=[1, 2, 1, 1], layer_type=block, out_features=["stage4"]
    )
    return stirred(DetrForObjectDetection(DetrConfig(
        use_timm_backbone=False, backbone_config=stages, d_model=32, num_queries=7, num_labels=5, encoder_layers=2,
        decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)}, **keys,
    )))  # fmt: skip


@pytest.fixture(scope="module")
def detr_folder(tmp_path_factory):
    """As transformers saves it: names on disk, config.json."""
    model = their_detr()
    folder = tmp_path_factory.mktemp("detr")
    model.save_pretrained(folder / "saved")
    return model, folder / "saved"


def imported(source, out, *words):
    assert main(["import", str(source), "--out", str(out), *words]) in (None, 0)
    return load.load_bundle(out)[0]


@torch.no_grad()
def test_detr_as_transformers_saves_it(detr_folder, tmp_path):
    theirs, folder = detr_folder
    bundle = imported(folder, tmp_path / "out", "--licence", "Apache-2.0")
    assert bundle.classes == ("N/A", "cat", "N/A (2)", "dog", "fox")
    assert bundle.recipe.model.name.startswith("resnet/")
    assert bundle.recipe.task.name == "detection"
    images, sizes = torch.randn(2, 3, 128, 160), torch.tensor([[128, 150], [100, 160]])
    mask = torch.zeros(2, 128, 160)
    for one, (h, w) in zip(mask, sizes, strict=True):
        one[:h, :w] = 1
    ours, expected = bundle.model.eval()(images, sizes), theirs(images, pixel_mask=mask)
    close(ours.logits, expected.logits)
    close(ours.boxes, expected.pred_boxes)


def original_names(state):
    """The names of facebookresearch/detr."""
    made = {}
    inner = {"model.input_projection": "input_proj", "model.decoder.layernorm": "transformer.decoder.norm",
             "model.query_position_embeddings": "query_embed", "class_labels_classifier": "class_embed",
             "bbox_predictor": "bbox_embed", "model.encoder": "transformer.encoder",
             "model.decoder": "transformer.decoder", "self_attn_layer_norm": "norm1",
             "encoder_attn_layer_norm": "norm2", "encoder_attn": "multihead_attn", "mlp.fc": "linear",
             "o_proj": "out_proj"}  # fmt: skip
    for name, t in state.items():
        if name.startswith("model.backbone.model."):
            made[name.replace("model.backbone.model.", "backbone.0.body.")] = t
            continue
        last = "norm2" if "encoder.layers" in name and "model.encoder" in name else "norm3"
        for old, new in (*inner.items(), ("final_layer_norm", last)):
            name = name.replace(old, new)
        made[name] = t
    for name in [n for n in made if ".q_proj." in n]:
        leaf = name.rpartition(".")[2]
        parts = [made.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        made[name.replace(f"q_proj.{leaf}", f"in_proj_{leaf}")] = torch.cat(parts)
    return made


@pytest.fixture(scope="module")
def original_detr():
    """transformers' DETR on torchvision's ResNet, with the names of the original."""
    from torchvision.models.resnet import Bottleneck, ResNet

    theirs = their_detr()
    body = stirred(ResNet(Bottleneck, [1, 2, 1, 1], replace_stride_with_dilation=[False, False, True]))
    wide = nn.Conv2d(2048, 32, 1)
    theirs.model.input_projection = stirred(wide)
    return theirs, body


class Body(nn.Module):
    """The maps of torchvision's ResNet, with the mask of transformers' backbone."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images, mask):
        b = self.body
        x = b.maxpool(b.relu(b.bn1(b.conv1(images))))
        x = b.layer4(b.layer3(b.layer2(b.layer1(x))))
        return [(x, F.interpolate(mask[None], size=x.shape[-2:])[0].bool())]


@torch.no_grad()
@pytest.mark.parametrize("dilated", [False, True])
def test_detr_by_its_original_names(tmp_path, original_detr, dilated):
    theirs, body = original_detr
    strides = {True: 1, False: 2}[dilated]
    body.layer4[0].conv2.stride = body.layer4[0].downsample[0].stride = (strides, strides)
    theirs.model.backbone = Body(body)
    state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("model.backbone.")}
    state = original_names(state) | {
        f"backbone.0.body.{n}": t
        for n, t in body.state_dict().items()
        if not n.startswith("fc.") and not n.endswith("num_batches_tracked")
    }
    file = tmp_path / ("detr-dc5.pth" if dilated else "detr.pth")
    torch.save({"model": state}, file)
    bundle = imported(file, tmp_path / "out")
    assert bundle.recipe.model.keys.get("last_stride", 2) == strides
    assert bundle.classes == ("0", "1", "2", "3", "4")
    task = bundle.recipe.task.keys
    assert (task["queries"], task["encoder"], task["decoder"], task["hidden"]) == (7, 2, 3, 48)
    # the file does not show 4 heads, and 8 is what every published one has
    ours = bundle.model
    for attention in [m for m in ours.modules() if hasattr(m, "heads") and isinstance(m.heads, int)]:
        attention.heads = 4
    images = torch.randn(1, 3, 96, 128)
    got, expected = ours.eval()(images), theirs(images)
    close(got.logits, expected.logits)
    close(got.boxes, expected.pred_boxes)


def test_a_panoptic_detr_comes_without_its_mask_head(original_detr, tmp_path):
    state = {f"detr.{name}": t for name, t in original_names(their_detr().state_dict()).items()}
    state |= {"mask_head.lay1.weight": torch.ones(2, 2, 3, 3), "bbox_attention.q_linear.weight": torch.ones(2, 2)}
    found = find_whole_model(state, Sidecar())
    assert found.task.name == "detection"
    assert set(found.dropped) == {"mask_head.lay1.weight", "bbox_attention.q_linear.weight"}


def test_names_of_coco_are_those_that_torchvision_has():
    from torchvision.models._meta import _COCO_CATEGORIES

    names = ["N/A", *_COCO_CATEGORIES[1:]]
    assert [name.partition(" ")[0] if "N/A" in name else name for name in detr.coco_names()] == names
    assert len(set(detr.coco_names())) == 91


SWIN = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4, "image_size": 128}


def their_upernet(**keys):
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = UperNetConfig(
        backbone_config=stages, hidden_size=32, num_labels=5, **{"auxiliary_channels": 16, **keys},
        id2label=dict(enumerate("abcde")), label2id={name: i for i, name in enumerate("abcde")},
    )  # fmt: skip
    return stirred(UperNetForSemanticSegmentation(config))


@torch.no_grad()
def test_upernet_as_transformers_saves_it(tmp_path):
    theirs = their_upernet()
    theirs.save_pretrained(tmp_path / "saved")
    bundle = imported(tmp_path / "saved", tmp_path / "out")
    assert bundle.classes == tuple("abcde")
    assert bundle.recipe.input.size == (512, 512)
    images = torch.randn(2, 3, 160, 192)  # maps larger than a window: transformers shifts windows on others too
    ours = bundle.model.eval()
    close(ours(images), theirs(images).logits)
    second = theirs.auxiliary_head(theirs.backbone(images).feature_maps)
    close(ours.forward_all(images)[1], F.interpolate(second, (160, 192), mode="bilinear"))


@torch.no_grad()
def test_upernet_in_memory_without_unused_norm_and_with_another_second_head(tmp_path):
    theirs = their_upernet(auxiliary_channels=24)
    state = {n: t for n, t in theirs.state_dict().items() if n not in ("backbone.swin.layernorm.weight",
                                                                       "backbone.swin.layernorm.bias")}  # fmt: skip
    save_file(state, tmp_path / "upernet.safetensors")
    bundle = imported(tmp_path / "upernet.safetensors", tmp_path / "out")
    assert "auxiliary" not in bundle.model.heads
    images = torch.randn(1, 3, 160, 160)
    close(bundle.model.eval()(images), theirs(images).logits)


def unfold_order(t):
    """The last axis, of four neighbours as Swin concatenates them, as nn.Unfold has it: channel by channel, row by
    row."""
    width = t.shape[-1] // 4
    order = {(0, 0): 0, (1, 0): 1, (0, 1): 2, (1, 1): 3}  # (down, across): its place in Swin's
    places = [order[down, across] * width + c for c in range(width) for down in (0, 1) for across in (0, 1)]
    return t[..., places]


def test_four_neighbours_in_the_order_of_unfold():
    from vitrail.models.swin import four_in_one

    x, weight = torch.randn(2, 3, 4, 6), torch.randn(5, 12)
    ours = four_in_one(x.permute(0, 2, 3, 1)).flatten(1, 2) @ weight.T
    torch.testing.assert_close(F.unfold(x, 2, stride=2).mT @ unfold_order(weight).T, ours)


def mmseg_names(state):
    """transformers' UPerNet by the names of mmsegmentation."""
    made = {}
    for name, t in state.items():
        for old, new in (
            ("swin.embeddings.patch_embeddings", "patch_embed"), ("swin.embeddings.norm", "patch_embed.norm"),
            ("swin.encoder.layers", "stages"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
            ("attention.relative_position_bias.", "attn.w_msa."), ("attention.o_proj", "attn.w_msa.proj"),
            ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1"), ("batch_norm", "bn"),
            ("classifier", "conv_seg"),
            *((f"hidden_states_norms.stage{i + 1}", f"norm{i}") for i in range(4)),
        ):  # fmt: skip
            name = name.replace(old, new)
        made[name] = unfold_order(t) if ".downsample." in name else t
    for name in [n for n in made if ".q_proj." in n]:
        parts = [made.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        made[name.replace("attention.q_proj", "attn.w_msa.qkv")] = torch.cat(parts)
    return {n: t for n, t in made.items() if "layernorm" not in n}


@torch.no_grad()
def test_upernet_of_mmsegmentation(tmp_path):
    theirs = their_upernet()
    meta = {"mmseg_version": "0.14", "CLASSES": ("wall", "floor")}
    torch.save({"meta": meta, "state_dict": mmseg_names(theirs.state_dict())}, tmp_path / "upernet.pth")
    bundle = imported(tmp_path / "upernet.pth", tmp_path / "out")
    images = torch.randn(1, 3, 160, 160)
    close(bundle.model.eval()(images), theirs(images).logits)


class Vit(nn.Module):
    """A ViT by the names and in the numbers of rstrudel/segmenter."""

    def __init__(self, tokens):
        from timm.models.vision_transformer import Block

        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 128, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 128))
        if tokens == 2:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, 128))
            self.head_dist = nn.Linear(128, 9)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16 + tokens, 128))
        self.blocks = nn.ModuleList(
            Block(128, 2, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(2)
        )  # eps 1e-5, as there
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 9)

    def forward(self, images):
        x = self.patch_embed.proj(images)
        grid, tokens = x.shape[2:], [getattr(self, n) for n in ("cls_token", "dist_token") if hasattr(self, n)]
        count = len(tokens)
        table = self.pos_embed[:, count:].mT.unflatten(2, (4, 4))
        table = F.interpolate(table, grid, mode="bilinear").flatten(2).mT
        x = torch.cat([*(t.expand(len(x), -1, -1) for t in tokens), x.flatten(2).mT], dim=1)
        x = x + torch.cat([self.pos_embed[:, :count], table], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, count:], grid


class MaskDecoder(nn.Module):
    def __init__(self, classes):
        from timm.models.vision_transformer import Block

        super().__init__()
        self.cls_emb = nn.Parameter(torch.zeros(1, classes, 128))
        self.proj_dec = nn.Linear(128, 128)
        self.proj_patch, self.proj_classes = (nn.Parameter(torch.randn(128, 128) / 11) for _ in range(2))
        self.blocks = nn.ModuleList(Block(128, 2, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(2))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(128), nn.LayerNorm(classes)

    def forward(self, x):
        x = torch.cat([self.proj_dec(x), self.cls_emb.expand(len(x), -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x, count = self.decoder_norm(x), self.cls_emb.shape[1]
        cells, kinds = x[:, :-count] @ self.proj_patch, x[:, -count:] @ self.proj_classes
        return self.mask_norm(
            (cells / cells.norm(dim=-1, keepdim=True)) @ (kinds / kinds.norm(dim=-1, keepdim=True)).mT
        )


class LinearDecoder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(128, classes)

    def forward(self, x):
        return self.head(x)


class TheirSegmenter(nn.Module):
    def __init__(self, tokens, decoder):
        super().__init__()
        self.encoder, self.decoder = Vit(tokens), decoder

    def forward(self, images):
        h, w = images.shape[2:]
        padded = F.pad(images, (0, -w % 8, 0, -h % 8))
        x, grid = self.encoder(padded)
        masks = self.decoder(x).mT.unflatten(2, grid)
        return F.interpolate(masks, padded.shape[2:], mode="bilinear")[:, :, :h, :w]


@torch.no_grad()
@pytest.mark.parametrize(("tokens", "decoder"), [(1, MaskDecoder), (1, LinearDecoder), (2, MaskDecoder)])
def test_segmenter_by_its_original_names(tmp_path, tokens, decoder):
    theirs = stirred(TheirSegmenter(tokens, decoder(5)))
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "segmenter.pth")
    bundle = imported(tmp_path / "segmenter.pth", tmp_path / "out")
    assert bundle.recipe.input.size == (32, 32)
    assert bundle.recipe.input.mean[0] == (0.5 if tokens == 1 else 0.485)
    for size in ((32, 32), (40, 24), (29, 51)):
        images = torch.randn(2, 3, *size)
        close(bundle.model.eval()(images), theirs(images))


def mmseg_segmenter(state):
    """rstrudel's Segmenter by the names of mmsegmentation, whose projections are linear layers."""
    made = {}
    for name, t in state.items():
        if name.startswith("encoder.head"):
            continue
        for old, new in (
            ("encoder.norm.", "backbone.ln1."), ("encoder.", "backbone."), ("decoder.", "decode_head."),
            ("blocks", "layers"), (".norm1.", ".ln1."), (".norm2.", ".ln2."), ("attn.qkv.", "attn.attn.in_proj_"),
            ("attn.proj", "attn.attn.out_proj"), ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1"),
            ("patch_embed.proj", "patch_embed.projection"), ("proj_dec", "dec_proj"), (".head.", ".conv_seg."),
            ("proj_patch", "patch_proj.weight"), ("proj_classes", "classes_proj.weight"),
        ):  # fmt: skip
            name = name.replace(old, new)
        t = t.T if name.endswith(("patch_proj.weight", "classes_proj.weight")) else t
        made[name] = t[..., None, None] if name == "decode_head.conv_seg.weight" else t
    return made


@torch.no_grad()
@pytest.mark.parametrize("decoder", [MaskDecoder, LinearDecoder])
def test_segmenter_of_mmsegmentation(tmp_path, decoder):
    theirs = stirred(TheirSegmenter(1, decoder(5)))
    for m in theirs.encoder.modules():
        if isinstance(m, nn.LayerNorm):
            m.eps = 1e-6
    state = mmseg_segmenter(theirs.state_dict())
    if decoder is MaskDecoder:
        state |= {"decode_head.conv_seg.weight": torch.ones(5, 128, 1, 1), "decode_head.conv_seg.bias": torch.ones(5)}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "segmenter.pth")
    bundle = imported(tmp_path / "segmenter.pth", tmp_path / "out")
    assert bundle.recipe.model.keys.get("position_resampling", "bicubic") == "bicubic"
    images = torch.randn(2, 3, 32, 32)
    close(bundle.model.eval()(images), theirs(images))


def test_a_variation_of_detr_is_refused_by_its_names(detr_folder, tmp_path, capsys):
    folder = detr_folder[1]
    state = load_file(folder / "model.safetensors") | {"model.decoder.ref_point_head.layers.0.weight": torch.ones(2)}
    save_file(state, tmp_path / "conditional.safetensors")
    assert main(["import", str(tmp_path / "conditional.safetensors"), "--out", str(tmp_path / "out")]) == 4
    assert "ref_point_head" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.backbone.conv_encoder.model.embedder.embedder.convolution.weight",
                                  "bbox_predictor.layers.1.bias", "model.decoder.layers.0.fc1.weight"])  # fmt: skip
def test_a_part_of_a_detr_is_refused(detr_folder, tmp_path, capsys, name):
    state = load_file(detr_folder[1] / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "part.safetensors")
    assert main(["import", str(tmp_path / "part.safetensors"), "--out", str(tmp_path / "out")]) == 4
    assert "conv1.weight" in capsys.readouterr().err or "decoder" in name or "bbox" in name


def test_another_model_and_other_classes_are_refused(detr_folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["import", str(detr_folder[1]), "--model", "vit/tiny", "--out", out]) == 4
    assert "--model resnet/" in capsys.readouterr().err
    assert main(["import", str(detr_folder[1]), "--classes", "9", "--out", out]) == 2
    assert "has 5 classes" in capsys.readouterr().err
    assert main(["import", str(detr_folder[1]), "--new-head", "--classes", "9", "--out", out]) == 2
    assert "train --weights" in capsys.readouterr().err


def test_a_upernet_on_another_backbone_is_named(tmp_path, capsys):
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, out_features=[f"stage{i}" for i in (1, 2, 3, 4)])
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=stages, hidden_size=8, num_labels=3))
    save_file(model.state_dict(), tmp_path / "convnext.safetensors")
    assert main(["import", str(tmp_path / "convnext.safetensors"), "--out", str(tmp_path / "out")]) == 4
    assert "no Swin" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"id2label": {"0": 7}}, {"id2label": "five"}, {"encoder_attention_heads": 10**9},
                                   {"dilation": "no"}, {"decoder_attention_heads": 2}])  # fmt: skip
def test_odd_sidecars_are_refused_by_their_field(detr_folder, wrong):
    state = load_file(detr_folder[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="|".join(wrong) + "|numbers of heads"):
        find_whole_model(state, Sidecar(config={"encoder_attention_heads": 4, **wrong}))


COUNTS = {"count_train": 4, "count_val": 2, "count_test": 2}


def test_the_same_in_training(detr_folder, tmp_path):
    """`--weights` of a detector: model, task and preprocessing are its own; with other classes, what depends on them is
    new."""
    recipe = dataclasses.replace(
        tiny.recipe("shapes", train={"steps": 1, "batch_size": 2}), model=Choice(), task=Choice("detection"),
        data=dataclasses.replace(tiny.recipe("shapes").data, name="shapes", keys=COUNTS),
        init=InitConfig(str(detr_folder[1])), augment=AugmentConfig(),
    )  # fmt: skip
    running = tiny.begin(
        dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, size=(64, 64))), tmp_path / "r"
    )
    assert running.recipe.task.keys["kind"] == "slots"
    assert running.recipe.model.name.startswith("resnet/")
    assert set(running.load_report.left_out) == {"class_embed.weight", "class_embed.bias"}
    assert json.loads((detr_folder[1] / "config.json").read_text())["num_queries"] == 7
    tiny.finish(running)
