"""Rules go both ways: theirs, ours, theirs again, number for number."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vitrail
from vitrail import catalog
from vitrail.errors import CheckpointError
from vitrail.weights.rules import STEPS, Drop, Rule, convert, match, revert, several

TABLES = [
    (f, s) for f in ("vit", "deit", "resnet") for s in importlib.import_module(f"vitrail.weights.tables.{f}").SOURCES
]
MODELS = {
    "vit": {"layer_scale": 1e-4, "registers": 2, "pre_logits": 12, "mlp": "gelu"},
    "deit": {"layer_scale": 1e-4, "tokens": 2},
    "resnet": {"depths": (1, 1, 1, 1), "width": 8},
}


def small(family, swiglu, placed):
    keys = dict(MODELS[family])
    if family != "resnet":
        keys |= {"width": 16, "depth": 3, "heads": 2, "patch": 8, "size": (16, 24)}
    if swiglu:
        keys["mlp"] = "swiglu"
    if placed:  # no class token: the registers have the first rows of the table, before those of a square grid
        keys |= {"tokens": 0, "size": (16, 16)}
    return vitrail.create(f"{family}/{'50' if family == 'resnet' else 'tiny'}", classes=3, **keys)


@pytest.mark.parametrize(("family", "source"), TABLES)
def test_ours_to_theirs_to_ours_to_theirs(family, source):
    rules = importlib.import_module(f"vitrail.weights.tables.{family}").SOURCES[source]
    model = small(family, "swiglu" in source, "placed" in source)
    ours = {n.removeprefix("backbone."): torch.randn(t.shape) for n, t in model.state_dict().items() if t.numel()}
    patterns = [o for r in rules if isinstance(r, Rule) for o in several(r.ours)]
    for name in [n for n in ours if any(part in n for part in ("registers", "ls1", "ls2", "pre_logits"))]:
        if all(match(p.replace("{all}", "{i}"), name) is None for p in patterns):
            del ours[name]  # this source has no such part
    theirs = revert(ours, rules, heads=2)
    back = convert(theirs, rules)
    assert not back.unknown
    assert set(back.tensors) == set(ours)
    assert all(torch.equal(back.tensors[n], t) for n, t in ours.items())
    again = revert(back.tensors, rules, heads=2)
    assert set(again) == set(theirs)
    assert all(torch.equal(again[n], t) for n, t in theirs.items())


def test_every_family_with_a_table_names_known_steps():
    for family in catalog.list_modules("weights/tables"):
        for rules in importlib.import_module(f"vitrail.weights.tables.{family}").SOURCES.values():
            assert all(isinstance(r, Drop) or set(several(r.steps)) <= set(STEPS) for r in rules), family


@settings(max_examples=40, deadline=None, derandomize=True)
@given(heads=st.integers(1, 4), width=st.integers(1, 5), each=st.integers(1, 3), depth=st.integers(1, 3))
def step_losses_of_heads_and_stacks_come_back(heads, width, each, depth):
    qkv = [torch.randn(depth, width, heads, each) for _ in range(3)]
    theirs = {
        "q": qkv[0],
        "k": qkv[1],
        "v": qkv[2],
        "b": torch.randn(depth, heads, each),
        "o": torch.randn(depth, heads, each, width),
    }
    rules = (
        Rule(("q", "k", "v"), "{all}.qkv", ("heads_in", "fuse")),
        Rule("b", "{all}.b", "heads_bias"),
        Rule("o", "{all}.o", "heads_out"),
    )
    ours = convert(theirs, rules).tensors
    assert ours["0.qkv"].shape == (3 * heads * each, width)
    assert ours["0.o"].shape == (width, heads * each)
    torch.testing.assert_close(ours["0.qkv"][: heads * each], qkv[0][0].reshape(width, -1).T)
    back = revert(ours, rules, heads=heads)
    assert all(torch.equal(back[n], t) for n, t in theirs.items())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(STEPS)), st.data())
def test_every_step_has_its_way_back(name, data):
    if name in ("heads_in", "heads_bias", "heads_out", "keyless", "bgr"):
        return  # the first three above; the others lose or move what only their own table can say
    count = 3 if name == "fuse" else 1
    shapes = {"row": [1, 4, 3], "conv": [2, 3, 4, 5]}
    shape = shapes.get(name, [data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))])
    parts = [torch.randn(shape) for _ in range(count)]
    try:
        there = STEPS[name].forward(parts)
    except (RuntimeError, IndexError, ValueError):
        return  # a step of another family that wants other axes
    back = STEPS[name].backward(there, count)
    assert all(torch.equal(a, b) for a, b in zip(back, parts, strict=True))


def test_a_matrix_that_does_not_split_is_unknown():
    rule = Rule("qkv", ("q", "k", "v"), "split")
    assert convert({"qkv": torch.zeros(2, 3)}, (rule,)).unknown == ["qkv"]
    assert [t.shape[0] for t in convert({"qkv": torch.zeros(6, 3)}, (rule,)).tensors.values()] == [2, 2, 2]


def test_what_does_not_fit_is_unknown_and_never_half_taken():
    rules = (
        Rule(("q", "k"), "qk", "fuse"),
        Rule("table", "t", "row"),
        Rule("a", "same"),
        Rule("b", "same"),
        Drop("x.{rest}", "why"),
    )
    found = convert(
        {
            "q": torch.zeros(2),
            "table": torch.zeros(2, 3),
            "a": torch.ones(1),
            "b": torch.zeros(1),
            "x.y.z": torch.zeros(1),
        },
        rules,
    )
    assert found.unknown == ["b", "q", "table"]  # half a group, a row that is two, a second claim on one name
    assert found.dropped == {"x.y.z": "why"}
    assert match("blocks.{i}.{rest}", "blocks.3.a.b") == {"i": "3", "rest": "a.b"}
    assert match("blocks.{i}.x", "blocks.3.4.x") is None
    with pytest.raises(CheckpointError, match="no name in that format"):
        revert({"other": torch.zeros(1)}, rules)
    with pytest.raises(CheckpointError, match="heads"):
        revert({"w": torch.zeros(2, 2)}, (Rule("k", "w", "heads_in"),))
