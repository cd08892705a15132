"""`gpu.py` in miniature on a processor: every part runs, rows are written as they end, and no time is overdrawn."""

import json
import time

import gpu
import pytest

WORDS = ["--device", "cpu", "--miniature", "--seconds", "120"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("gpu") / "gpu.jsonl"
    found = gpu.main([*WORDS, "--out", str(file), "--parts", "train", "infer", "attention", "real"])
    assert [json.loads(line) for line in file.read_text().splitlines()] == found
    return {row["row"]: row for row in found}


def test_a_model_is_trained_on_images_that_the_device_holds(tmp_path):
    machine, matmul, real = gpu.main([*WORDS, "--out", str(tmp_path / "gpu.jsonl"), "--parts", "real"])
    assert machine["device"] == "cpu"
    assert matmul["tflops"] > 0
    assert real["steps"] > 0
    assert 0 <= real["accuracy"] <= 1


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (["peers"], [("train", "timm"), ("train", "transformers")]),
        (
            ["infer", "peers", "train"],
            [("train", "ours"), ("train", "timm"), ("train", "transformers"), ("infer", "ours")],
        ),
    ],
)
def test_each_part_alone_has_rows_too(parts, found, monkeypatch):
    monkeypatch.setattr(gpu, "peers", lambda *_: {"timm": None, "transformers": None})
    told = list(gpu.rows(parts, gpu.SMALLEST[:1], gpu.Bench("cpu", True)))
    assert [(part, who) for part, _, who, _, _ in told] == 2 * found, "compiled, then eager"


@pytest.mark.slow
def test_every_part_has_its_rows(rows):
    assert [name for name, row in rows.items() if "failed" in row or "skipped" in row] == []
    both = [f"{part} {name} ours {how}" for part in ("train", "infer") for name in ("vit/nano", "dit/nano")
            for how in ("compiled", "eager")]  # fmt: skip
    assert {"machine", "matmul", "attention", "real", *both} == set(rows)


@pytest.mark.slow
def test_what_is_compiled_is_whole_and_compiled_once(rows):
    for name, row in rows.items():
        if name.endswith("compiled"):
            assert (row["graph_breaks"], row["graphs"], row["recompiles"]) == (0, 1, 0), name
            assert 0 < row["mfu"] < 1


@pytest.mark.slow
def test_attention_agrees_and_a_model_learns(rows):
    assert rows["attention"]["difference"] < 1e-5
    assert rows["attention"]["visible"] < 1
    assert rows["real"]["steps"] > 0


def test_a_row_that_takes_too_long_is_given_up_and_one_that_fails_loses_no_other(tmp_path):
    report = gpu.Report(tmp_path / "rows.jsonl", 100)
    report.run("slow", lambda: time.sleep(30) or {}, budget=0.05)
    report.run("wrong", lambda: {"x": 1 / 0})
    report.run("late", lambda: {"x": 1}, keep=99)
    report.run("good", lambda: {"x": 1})
    kinds = [next(k for k in row if k != "row") for row in report.rows]
    assert kinds == ["skipped", "failed", "skipped", "x"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_other_libraries_run_in_the_same_run(tmp_path):
    entry = gpu.Entry("vit/nano", 2, "vit_tiny_patch16_224", "ViTConfig 32 2 2 64")
    bench = gpu.Bench("cpu", True)
    for who, make in gpu.peers(entry, 28).items():
        assert bench.train(entry, make(), True)["images_per_s"] > 0, who


@pytest.mark.slow
def test_the_models_are_those_that_both_sides_have():
    import timm

    known = set(timm.list_models())
    assert {entry.timm for entry in gpu.ENTRIES if entry.timm} <= known
    assert {"vit/small", "vit/base", "vit/large", "swin/tiny", "pvt_v2/b2", "efficientvit/b1", "dit/base_2"} == {
        entry.name for entry in gpu.ENTRIES
    }
