"""`vitrail bench`: a row an engine and precision, and a recommendation that keeps the accuracy."""

import json

import pytest

from vitrail.assembly.load import hash_weights, load_bundle
from vitrail.cli.main import main
from vitrail.evaluation.difference import Change
from vitrail.export.bench.candidates import Workshop, find_file
from vitrail.export.bench.measure import measure_memory
from vitrail.export.bench.table import Row, Table, explain, recommend
from vitrail.export.request import ExportSubject


@pytest.fixture(scope="module")
def table(run):
    assert main(["bench", str(run), "--only", "onnx", "--seconds", "0", "--batch", "4", "--threads", "1"]) == 0
    return json.loads((run / "bench.json").read_text())


@pytest.mark.slow
def test_the_report_has_it(run, table):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert f"Recommended: <strong>{table['recommended']}</strong>" in page
    assert "onnx int8 dynamic" in page
    kept = (run / "bench.json").read_text()
    try:
        for damaged in (kept[:100], kept.replace('"onnx fp32"', '"<script>"'), kept.replace('"rows"', '"row"')):
            (run / "bench.json").write_text(damaged)
            assert main(["report", str(run)]) == 0
            assert 'id="engines"' not in (run / "report.html").read_text()
    finally:
        (run / "bench.json").write_text(kept)


def test_a_row_each(table):
    assert [row["name"] for row in table["rows"]] == ["torch fp32", "onnx fp32", "onnx int8", "onnx int8 dynamic"]
    for row in table["rows"]:
        assert row["latency_p95_ms"] >= row["latency_p50_ms"] > 0
        assert row["images_per_second"] > 0
        assert row["cpu_ms"] > 0
        assert row["file_bytes"] > 0
        assert row["answers"] == row["change"]["images"] == 9
    assert table["rows"][0]["changed"] == table["rows"][1]["changed"] == 0
    assert table["rows"][2]["file_bytes"] < table["rows"][1]["file_bytes"]
    assert table["recommended"] in [row["name"] for row in table["rows"]]
    assert table["evaluated"].startswith("9 images, the test part of")


@pytest.mark.slow
def test_files_of_the_run_are_used(run, capsys):
    assert main(["export", str(run), "--int8", "--force", "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["bench", str(run), "--only", "onnx int8", "--seconds", "0", "--count", "4"]) == 0
    shown = capsys.readouterr()
    assert "making onnx int8\n" not in shown.err
    assert "recommended: " in shown.out
    assert "4 of 9 images" in shown.out


def test_an_export_with_a_further_output_is_not_measured(run, table, tmp_path):
    """Nor one of other weights, of floats, or in another precision."""
    bundle, path = load_bundle(run)
    assert main(["export", str(run), "--format", "torch", "--out", str(tmp_path / "torch")]) == 0
    about = json.loads((tmp_path / "torch" / "model.json").read_text())

    def found(**fields):
        (tmp_path / "torch" / "model.json").write_text(json.dumps({**about, "export": about["export"] | fields}))
        subject = ExportSubject(bundle, str(run), hash_weights(path), None)
        return find_file(Workshop(subject, tmp_path, tmp_path, [], print), "torch", "fp32")

    assert found() is not None
    for fields in ({"outputs": ["probabilities", "attention"]}, {"source_sha256": "0" * 64}, {"precision": "int8"},
                   {"image_type": "float32"}, {"export_format": "onnx"}, {"sha256": "0" * 64}):  # fmt: skip
        assert found(**fields) is None


def test_what_is_not_there(run, capsys):
    assert main(["bench", str(run), "--only", "tensorrt"]) == 2
    assert "nothing here is called tensorrt" in capsys.readouterr().err
    assert main(["bench", str(run), "--batch", "0"]) == 2
    assert main(["bench", str(run), "--split", "val"]) == 2


def row(name, cpu, loss=0.0):
    change = Change("top1", 0.8, 0.8 - loss, -loss - 0.01, -loss + 0.01, 500, "bootstrap")
    return Row(name, cpu, cpu, 1000 / cpu, cpu, None, 1, change, 500, 0, "" if name.startswith("torch") else "x")


def of(*rows):
    return Table(rows, (), 16, 1, "a machine", "500 images", "run")


def test_the_fastest_that_is_as_accurate_is_recommended():
    base, onnx, bf16, int8 = row("torch fp32", 10), row("onnx fp32", 8), row("openvino bf16", 5), row("onnx int8", 4)
    assert recommend(of(base, onnx, bf16, int8)) is int8
    lossy = row("onnx int8", 4, 0.006)
    found = of(base, onnx, bf16, lossy)
    assert recommend(found) is bf16
    assert "onnx int8 (-0.6 points) would be faster" in explain(found, bf16)
    assert "with the answers of torch: onnx fp32" in explain(found, bf16)


def test_nothing_where_little_is_gained():
    base = row("torch fp32", 10)
    found = of(base, row("onnx fp32", 9.5), row("onnx int8", 9.2))
    assert recommend(found) is base
    assert "nothing needs to be exported" in explain(found, base)
    near = of(base, row("onnx fp32", 5), row("onnx int8", 4.8))
    assert recommend(near).name == "onnx fp32"


def test_memory_of_an_action():
    result, rise = measure_memory(lambda: len(bytearray(b"x" * 60_000_000)))
    assert result == 60_000_000
    assert rise is None or rise > 30_000_000
