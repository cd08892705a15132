"""Token merging against a reference that is written here from the paper, and what goes through a model with it."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_models import SMALL as FAMILIES
from test_models import images

import vitrail
from vitrail.engine.processes.parallel import recompute
from vitrail.errors import UsageError
from vitrail.heads.segment import HeadConfig, Segmenter
from vitrail.layers.merge import merge_counts, merge_tokens
from vitrail.models import dinov3, vit
from vitrail.training import loop
from vitrail.types import TokenLayout

SMALL = vit.Config(width=32, depth=3, heads=2, patch=4, size=(20, 24), channels=1)
IMAGES = torch.randn(3, 1, 20, 24, generator=torch.Generator().manual_seed(0))


def model(config=SMALL, build=vit.build, **keys):
    """With weights that make similarities as far apart as those of a trained model."""
    torch.manual_seed(0)
    made = build(replace(config, **keys))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return made.eval()


def with_merging(plain, merge, build=vit.build):
    made = build(replace(plain.config, merge=merge))
    made.load_state_dict(plain.state_dict())
    return made.eval()


class Reference:
    """One image at a time, in loops: a pre-norm ViT with class tokens, as its weights say, and section 3 of the paper.
    What a token is made of is a list of its patches."""

    def __init__(self, plain):
        self.w, self.config = {k: v.double() for k, v in plain.state_dict().items()}, plain.config

    def __call__(self, image, r):
        w, c = self.w, self.config
        x = F.conv2d(image[None].double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=c.patch)
        x = x[0].flatten(1).T
        table = w.get("position.table", torch.zeros(len(x), c.width).double())
        lead = [w[k] for k in ("tokens", "registers") if k in w]
        if c.tokens and len(table) > len(x):
            lead[0] = lead[0] + table[: c.tokens]
        x = torch.cat([*lead, x + table[-len(x) :]])
        protected = c.tokens + c.registers
        tokens = [(row, [i - protected]) for i, row in enumerate(x)]
        for i in range(c.depth):
            tokens = self.block(f"blocks.{i}", tokens, r, protected)
        x = torch.stack([row for row, _ in tokens])
        x = F.layer_norm(x, (c.width,), w["norm.weight"], w["norm.bias"], c.eps)
        return x, [members for _, members in tokens]

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def block(self, name, tokens, r, protected):
        c, w = self.config, self.w
        x, members = torch.stack([row for row, _ in tokens]), [m for _, m in tokens]
        y = F.layer_norm(x, (c.width,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], c.eps)
        q, k, v = self.linear(f"{name}.attn.qkv", y).split(c.width, dim=1)
        d, outs, keys = c.width // c.heads, [], []
        sizes = torch.tensor([float(len(m)) for m in members]).double()
        for h in range(c.heads):
            part = slice(h * d, (h + 1) * d)
            weights = sizes * torch.exp(q[:, part] @ k[:, part].T / d**0.5)  # proportional attention, equation 1
            outs.append(weights @ v[:, part] / weights.sum(1, keepdim=True))
            keys.append(k[:, part])
        x = x + self.linear(f"{name}.attn.proj", torch.cat(outs, dim=1))
        rows, members = self.merge(x, members, torch.stack(keys).mean(0), r, protected)
        x = torch.stack(rows)
        y = F.layer_norm(x, (c.width,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], c.eps)
        x = x + self.linear(f"{name}.mlp.fc2", F.gelu(self.linear(f"{name}.mlp.fc1", y)))
        return list(zip(x, members, strict=True))

    def merge(self, x, members, metric, r, protected):
        a, b = range(0, len(x), 2), range(1, len(x), 2)  # of the whole sequence, the class token first
        edges = {}
        for i in a:
            for j in b:
                if i >= protected and j >= protected:
                    score = float(F.cosine_similarity(metric[i], metric[j], dim=0))
                    if i not in edges or score > edges[i][0]:
                        edges[i] = (score, j)
        r = min(r, (len(x) - protected) // 2)
        chosen = sorted(edges, key=lambda i: -edges[i][0])[:r]
        joins = {j: [j, *(i for i in chosen if edges[i][1] == j)] for j in b if j >= protected}
        order = list(range(protected)) + [i for i in a if i >= protected and i not in chosen] + list(joins)
        rows, groups = [], []
        for i in order:
            group = joins.get(i, [i])
            sizes = torch.tensor([float(len(members[g])) for g in group])
            rows.append(sum(x[g] * s for g, s in zip(group, sizes, strict=True)) / sizes.sum())
            groups.append(sorted(p for g in group for p in members[g]))
        return rows, groups


def groups_of(made, images):
    """The patches of each token after the last block, and the features."""
    layouts = []
    handle = made.blocks[-1].register_forward_hook(lambda m, args, out: layouts.append(out[1]))
    features = made(images)
    handle.remove()
    index = layouts[-1].merged.tokens
    return [[(row == t).nonzero()[:, 0].tolist() for t in range(int(row.max()) + 1)] for row in index], features


@pytest.mark.parametrize("merge", [1, 4, 7, 100])
@pytest.mark.parametrize("keys", [
    {}, {"tokens": 2}, {"tokens": 0}, {"registers": 4}, {"tokens": 0, "position": "none"},
    {"tokens": 2, "registers": 1},
])  # fmt: skip
@torch.no_grad()
def test_groups_and_answers_are_those_of_the_paper(keys, merge):
    plain = model(**keys)
    reference = Reference(plain)
    groups, features = groups_of(with_merging(plain, merge), IMAGES)
    lead = plain.leading
    for b, image in enumerate(IMAGES):
        x, members = reference(image, merge)
        assert groups[b] == members[lead:], "the same groups, in the same order"
        cells = torch.stack([next(x[t] for t, m in enumerate(members) if t >= lead and p in m) for p in range(30)])
        torch.testing.assert_close(features.maps[0][b].flatten(1).T.double(), cells, rtol=0, atol=1e-5)
        wanted = x[: plain.summaries] if plain.summaries else cells.mean(0, keepdim=True)
        for summary, row in zip(features.summaries, wanted, strict=True):
            torch.testing.assert_close(summary[b].double(), row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm_at", ["pre", "branch", "post"])
@torch.no_grad()
def test_nothing_merged_is_the_model_bit_for_bit(norm_at):
    plain = model(norm_at=norm_at, position="rope", layer_scale=0.3, tokens=0)
    assert type(plain.blocks[0]) is type(vit.build(replace(plain.config, merge=0)).blocks[0])
    merging = with_merging(plain, 1)  # the blocks that merge, of which none does
    merging.merge = 1e-9
    for a, b in zip(merging(IMAGES), plain(IMAGES), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_counts_of_a_share_are_spread_over_the_blocks():
    assert merge_counts(0.5, 196, 12) == [9, 9, *[8] * 10]
    assert merge_counts(8, 196, 12) == [8] * 12
    assert merge_counts(13, 196, 12) == [13] * 12
    assert merge_counts(300, 10, 3) == [5, 2, 1], "a block merges half at most"
    assert merge_counts(0.999, 196, 2) == [98, 49]
    assert merge_counts(0.0, 196, 2) == merge_counts(7, 1, 2) == [0, 0]
    assert merge_counts(3, 7, 0) == []


def test_gradients_are_those_of_the_mean_and_reach_all_weights():
    x, keys = torch.randn(2, 9, 3).double().requires_grad_(), torch.randn(2, 1, 9, 3)
    layout = TokenLayout((2, 4), (1.0, 1.0), 1)

    def twice(x):
        y, at = merge_tokens(x, layout, keys, 3)
        return merge_tokens(y, at, keys[:, :, :6], 2)[0]

    assert torch.autograd.gradcheck(twice, (x,))
    merging = model(merge=4).train()
    features = merging(IMAGES)
    (features.summaries[0].square().sum() + features.maps[0].square().sum()).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in merging.parameters())


def test_activations_that_are_computed_twice_give_the_same_gradients():
    made = [model(merge=0.5, drop_path=0.3).train() for _ in range(2)]
    recompute(made[1].blocks)
    for one in made:
        torch.manual_seed(1)
        one(IMAGES).maps[0].square().sum().backward()
    for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@torch.no_grad()
def test_patches_with_the_same_content_become_one_and_change_nothing():
    """Without positions equal patches have equal tokens: their mean is what each is, and one that counts for both gives
    the attention that both gave."""
    plain = model(position="none", tokens=1)
    striped = IMAGES[:, :, :8, :4].repeat(1, 1, 3, 6)[:, :, :20]  # rows of two kinds of patch, in turns
    groups, features = groups_of(with_merging(plain, 2), striped)
    assert all(len({p // 6 % 2 for p in group}) == 1 for of_image in groups for group in of_image)
    assert max(map(len, groups[0])) > 2
    for a, b in zip(features, plain(striped), strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rotated_tokens_are_at_the_centre_of_their_patches():
    """A group's angle is the mean of its patches'; equal patches side by side differ by their angles alone."""
    plain = model(replace(dinov3.VARIANTS["small"], width=32, depth=3, heads=2, patch=4, size=(20, 24), channels=1,
                          registers=2), dinov3.build)  # fmt: skip
    made = with_merging(plain, 3, dinov3.build)
    groups, features = groups_of(made, IMAGES)
    assert sum(map(len, groups[0])) == 30
    handle = made.blocks[1].attn.register_forward_hook(lambda m, args, out: taken.append(args))
    taken: list = []
    made(IMAGES)
    handle.remove()
    inputs, layout = taken[0]
    block = made.blocks[1]
    angles = block.attn.rotary.angles(layout.grid)
    q = block.attn.qkv(block.norm1(input_of(made, 1))).chunk(3, dim=-1)[0].unflatten(-1, (2, -1)).transpose(1, 2)
    for b, token in ((0, 0), (1, 5), (2, layout.cells - 1)):
        members = layout.merged.tokens[b] == token
        angle = angles[members].mean(0)
        half = q[b, 0, token + 3].chunk(2)
        turned = torch.cat(
            [half[0] * angle.cos() - half[1] * angle.sin(), half[1] * angle.cos() + half[0] * angle.sin()]
        )
        torch.testing.assert_close(inputs.queries[b, 0, token + 3], turned)
    assert torch.isfinite(features.maps[0]).all()


def input_of(made, number):
    taken = []
    handle = made.blocks[number].register_forward_pre_hook(lambda m, args: taken.append(args[0]))
    made(IMAGES)
    handle.remove()
    return taken[0]


@torch.no_grad()
def test_maps_between_blocks_have_a_token_for_each_patch():
    plain = model(map_depths=(1, 2), registers=2)
    merging = with_merging(plain, 6)
    features = merging(IMAGES)
    assert [m.shape for m in features.maps] == [m.shape for m in plain(IMAGES).maps]
    different = [len(torch.unique(m[0].flatten(1), dim=1).T) for m in features.maps]
    assert different == [24, 18, 12]


def test_patches_that_were_dropped_are_filled_and_the_others_merged():
    merging = model(merge=3, patch_dropout=0.5).train()
    features = merging(IMAGES)
    assert features.maps[0].shape == (3, 32, 5, 6)
    features.maps[0].square().sum().backward()
    assert all(p.grad is not None for p in merging.parameters())


@torch.no_grad()
def test_bf16_merges_by_similarities_in_full_precision():
    plain = model()
    merging = with_merging(plain, 4)
    with torch.autocast("cpu", torch.bfloat16):
        summaries, maps = merging(IMAGES)
    assert torch.isfinite(summaries[0]).all()
    own = copy.deepcopy(merging).bfloat16()(IMAGES.bfloat16())
    assert own.maps[0].dtype == torch.bfloat16
    torch.testing.assert_close(maps[0].float(), merging(IMAGES).maps[0], rtol=0.2, atol=0.5)


@pytest.mark.parametrize("keys", [{"position": "relative"}, {"position": "relative_log"}, {"attention_radius": 2},
                                  {"window": 2}, {"drop_path_skip": True, "drop_path": 0.1}])  # fmt: skip
def test_what_needs_the_whole_grid_is_refused(keys):
    name = str(next(iter(keys.values()))) if "position" in keys else next(iter(keys))
    with pytest.raises(UsageError, match=f"merge joins patches.*{name}"):
        model(merge=2, **keys)


def test_a_number_of_tokens_is_whole():
    with pytest.raises(UsageError, match=r"merge is 8\.5"):
        model(merge=8.5)


@pytest.mark.parametrize("family", ["deit", "clip", "siglip", "eva", "hybrid"])
@torch.no_grad()
def test_families_of_the_same_blocks_merge(family):
    name, keys = FAMILIES[family]
    plain = vitrail.backbone(name, **keys).eval()
    merging = vitrail.backbone(name, **keys, merge=0.75).eval()
    merging.load_state_dict(plain.state_dict())
    x = images(family)
    for a, b in zip(merging(x), plain(x), strict=True):
        assert [t.shape for t in a] == [t.shape for t in b]
    assert len(torch.unique(merging(x).maps[0][0].flatten(1), dim=1).T) == (32 if family == "hybrid" else 20)


@torch.no_grad()
@pytest.mark.slow
def test_one_program_holds_for_every_batch():
    merging = model(merge=4, position="rope", depth=1)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(merging, (IMAGES,), dynamic_shapes=({0: batch},), strict=False)
    x = torch.randn(5, 1, 20, 24)
    for few in (x, x[:1]):
        for a, b in zip(program.module()(few), merging(few), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("head", ["linear", "mask", "fpn"])
def test_heads_for_masks_sit_on_merged_patches(head):
    merging = Segmenter(model(merge=4, map_depths=(1, 2)), HeadConfig(head, 5, dropout=0.0))
    out = merging(IMAGES)
    assert out.shape[:2] == (3, 5)
    out.square().sum().backward()
    assert all(p.grad is not None for p in merging.backbone.blocks.parameters())


@pytest.mark.slow
def test_training_with_merging_goes_on_to_the_same_bits(tmp_path):
    """Stopped after a checkpoint and resumed, with activations computed twice, and in one go."""
    data = tiny.npz(tmp_path)
    for name, keys in (("whole", {}), ("stopped", {"grad_checkpoint": True})):
        made = tiny.recipe(data, model={"merge": 2}, train={"steps": 6}, runtime=keys)
        running = tiny.begin(made, tmp_path / name)
        assert running.state.model.backbone.merge == 2
        for event in loop.run_training(running):
            if name == "stopped" and event.kind == "saved":
                break
    tiny.finish(tiny.again(tmp_path / "stopped"))
    assert tiny.digest(tmp_path / "whole/model.safetensors") == tiny.digest(tmp_path / "stopped/model.safetensors")
