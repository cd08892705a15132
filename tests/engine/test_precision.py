"""`precision auto` is decided by the processor and the model, and never by a clock."""

import ast
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vitrail.assembly import precision as assembly_precision
from vitrail.assembly.precision import build_on_meta, least_macs
from vitrail.assembly.resolve import Names
from vitrail.engine import precision
from vitrail.engine.precision import BF16_MACS, choose_precision
from vitrail.layers.attention import SHORT, attend
from vitrail.recipe import Choice, InputConfig, Recipe

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch):
    def has(*units):
        monkeypatch.setattr(precision, "cpu_capabilities", lambda: dict.fromkeys(units, True))

    return has


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    def asked():
        pytest.fail("a clock was asked")

    monkeypatch.setattr(time, "perf_counter", asked)
    monkeypatch.setattr(time, "monotonic", asked)


@pytest.mark.parametrize(
    ("unit", "name"), [("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")], ids=["amx", "avx512-bf16"]
)
def test_a_cpu_with_a_unit_for_bf16_uses_it_from_a_stated_size_on(unit, name, processor):
    processor(unit)
    large, small = (choose_precision("auto", CPU, lambda n=n: n) for n in (BF16_MACS, BF16_MACS - 1))
    assert (large.name, small.name) == ("bf16", "fp32")
    assert name in large.reason
    assert "300 million" in large.reason
    assert "300 million" in small.reason
    assert choose_precision("auto", CPU, lambda: 0).name == "fp32", "of unknown size"


def test_the_threshold_lies_between_the_models_that_were_measured():
    assert 14_132_160 < BF16_MACS <= 1_253_493_120, "ViT nano at 32 pixels is slower in bf16, ViT tiny at 224 faster"


def test_the_module_that_decides_can_ask_no_clock():
    """Neither `time` nor what has it is imported there, or in what it imports of ours."""
    for module in (precision, assembly_precision):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & {"time", "timeit", "datetime", "resource", "os"}
        assert "torch.utils.benchmark" not in names


def test_a_cpu_without_one_computes_in_fp32_and_nothing_is_counted(processor):
    processor("avx512_f", "avx2")
    chosen = choose_precision("auto", CPU, lambda: pytest.fail("counted for nothing"))
    assert (chosen.name, chosen.reason) == ("fp32", "this CPU has neither AMX nor AVX512-BF16")


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_is_asked_what_it_can_do(has_bf16, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", torch.device("cuda", 0), lambda: 0).name == name
    assert choose_precision("auto", torch.device("mps"), lambda: 0).name == "fp32"


def test_what_is_set_stays(processor):
    processor("amx_bf16")
    assert choose_precision("fp32", CPU, lambda: 10 * BF16_MACS).name == "fp32"
    assert choose_precision("bf16", CPU, lambda: 1).name == "bf16"


def test_torch_reports_this_cpu():
    assert precision.cpu_capabilities()
    assert precision.bf16_unit() in ("", "AMX", "AVX512-BF16")


def test_a_model_may_gain_from_fewer_multiply_adds(processor):
    """A pyramid of convolutions does."""
    processor("avx512_bf16")
    assert choose_precision("auto", CPU, lambda: 9_000_000, lambda: 10_000_000).name == "fp32"
    chosen = choose_precision("auto", CPU, lambda: 10_000_000, lambda: 10_000_000)
    assert chosen.name == "bf16"
    assert "10 million or more" in chosen.reason


@pytest.mark.parametrize(
    ("name", "least"), [("vit/micro", 5_000_000), ("vit/nano", BF16_MACS), ("resnet/18", BF16_MACS)]
)
def test_the_pyramid_is_known_by_its_layers(name, least):
    recipe = Recipe(model=Choice(name), input=InputConfig(size=(32, 32), channels=3))
    assert least_macs(build_on_meta(recipe, Names())) == least


@pytest.mark.parametrize("tokens", [SHORT, SHORT + 1])
def test_short_sequences_attend_in_fp32_under_bf16(tokens, monkeypatch):
    """And give what bf16 would, but for its rounding."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, 8).bfloat16().requires_grad_()
    types = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **b: types.append(a[0].dtype) or kernel(*a, **b))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(q, k, v, torch.zeros(1, 1, 1, tokens, dtype=torch.bfloat16), 0.0)
    assert types == [torch.float32 if tokens <= SHORT else torch.bfloat16]
    expected = kernel(q.float(), k.float(), v.float())
    assert (mixed.float() - expected).abs().max() <= 0.02 * expected.abs().max()
