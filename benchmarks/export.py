"""What exported files cost to run: ours in each engine and precision, torch, and timm's models by torch.onnx.

    nice python benchmarks/export.py [--models vit/small swin/tiny] [--run demo=RUN] [--batch 4] [--rounds 9]

Processor time of an image, on one thread, in turns: each round times everyone once, and the least counts. Weights are
random, so that nothing is downloaded; their accuracy means nothing. `--run NAME=RUN` adds a trained model of that name.
Accuracy of trained models, before and after: `vitrail bench RUN`. The bar: the best engine is twice as fast as torch in
fp32 on vit/small.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from history import append

import vitrail
from vitrail.assembly.load import load_bundle
from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.engine.precision import bf16_unit
from vitrail.export.compare import relative_error
from vitrail.export.contract import TracedGraph
from vitrail.export.formats import onnx
from vitrail.export.images import ImageRequest, read_images
from vitrail.export.int8 import onnx as int8_onnx
from vitrail.export.int8 import openvino as int8_openvino
from vitrail.export.proof import as_inputs, take
from vitrail.inference.engine import Engine
from vitrail.inference.engines import onnx as onnx_engine
from vitrail.inference.engines import openvino as openvino_engine
from vitrail.inference.graph import InferenceGraph
from vitrail.inference.torch_engine import TorchEngine

TIMM = {
    "vit/small": "vit_small_patch16_224", "swin/tiny": "swin_tiny_patch4_window7_224", "pvt_v2/b0": "pvt_v2_b0",
    "efficientvit/b0": "efficientvit_b0",
}  # fmt: skip
BAR, BAR_MODEL = 2.0, "vit/small"
BATCHES, CALIBRATING = 8, 4  # of calibration, and images of each
Run = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(TIMM))
    parser.add_argument("--run", nargs="*", default=[], help="NAME=RUN of a trained model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = dict(one.split("=", 1) for one in given.run)
        for name in given.models:
            sources[name] = str(Path(folder) / name.replace("/", "-"))
            vitrail.save(vitrail.create(name, classes=1000), sources[name])
        for name, source in sources.items():
            work = Path(folder) / f"{name.replace('/', '-')}-files"
            work.mkdir()
            figures[name] = measure(source, TIMM.get(name, ""), work, given.batch, given.rounds)
            show(name, figures[name])
    append("export", figures, {"batch": given.batch, "rounds": given.rounds})
    if BAR_MODEL in figures:
        best = max(figures[BAR_MODEL].values())
        print(f"{BAR_MODEL}: {best:.2f} times torch fp32: {'passed' if best >= BAR else 'missed'} (bar {BAR})")


def measure(source: str, peer: str, work: Path, batch: int, rounds: int) -> dict[str, float]:
    """How many times as fast as torch in fp32 each one is; "torch fp32 ms": its milliseconds an image."""
    bundle, _ = load_bundle(source)
    pre, images = build_preprocess(bundle.recipe.input), read_images(ImageRequest(source), bundle).pixels
    inputs = as_inputs(pre, take(images, batch), bundle)
    engines = open_engines(bundle, [as_inputs(pre, take(images[i:], CALIBRATING), bundle).images
                                    for i in range(0, BATCHES * CALIBRATING, CALIBRATING)], work)  # fmt: skip
    runs: dict[str, Run] = {name: lambda engine=engine: engine.run(*inputs) for name, engine in engines.items()}
    exact = engines["torch fp32"].run(*inputs)["probabilities"]
    for name, engine in engines.items():
        print(f"  {name}: {relative_error(engine.run(*inputs)['probabilities'], exact):.1e} from torch", flush=True)
    if peer:
        runs |= peers(peer, batch, work)
    least = time_in_turns(runs, rounds)
    base = least["torch fp32"]
    return {"torch fp32 ms": 1000 * base / batch, **{name: base / seconds for name, seconds in least.items()}}


def open_engines(bundle: ModelBundle, batches: list[np.ndarray], work: Path) -> dict[str, Engine]:
    """Ours, by engine and precision."""
    file, outputs = work / "model.onnx", ("probabilities",)
    graph = InferenceGraph(bundle)
    onnx.OnnxFormat(onnx.Config()).write(TracedGraph(graph, bundle, False), {}, file)
    static, dynamic, by_nncf = work / "int8.onnx", work / "dynamic.onnx", work / "int8.xml"
    given = [{"images": one} for one in batches]
    notes = {
        "onnx int8": int8_onnx.build(int8_onnx.Config()).quantise(file, static, given, False),
        "onnx int8 dynamic": int8_onnx.build(int8_onnx.Config()).quantise(file, dynamic, given, True),
        "openvino int8": int8_openvino.build(int8_openvino.Config()).quantise(file, by_nncf, given, False),
    }
    for name, note in notes.items():
        print(f"  {name}: {note}", flush=True)
    runtime, vino = onnx_engine.build(onnx_engine.Config()), openvino_engine.build(openvino_engine.Config())
    engines: dict[str, Engine] = {
        "torch fp32": TorchEngine(bundle), "onnx fp32": runtime.open(file, outputs, 1),
        "onnx int8": runtime.open(static, outputs, 1), "onnx int8 dynamic": runtime.open(dynamic, outputs, 1),
        "openvino fp32": vino.open(file, outputs, 1), "openvino int8": vino.open(by_nncf, outputs, 1),
    }  # fmt: skip
    if bf16_unit():
        config = dataclasses.replace(openvino_engine.Config(), precision="bf16")
        engines["torch bf16"] = TorchEngine(bundle, "bf16")
        engines["openvino bf16"] = openvino_engine.build(config).open(file, outputs, 1)
    return engines


def peers(name: str, batch: int, work: Path) -> dict[str, Run]:
    """timm's model in torch, and as torch.onnx writes it for ONNX Runtime: without preprocessing and softmax."""
    import onnxruntime
    import timm

    model = timm.create_model(name, num_classes=1000).eval()
    images = torch.randn(batch, 3, 224, 224)
    runs: dict[str, Run] = {"timm torch": lambda: model(images)}
    file = work / "timm.onnx"
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            free = {0: torch.export.Dim("batch")}
            torch.onnx.export(model, (images,), file, dynamo=True, dynamic_shapes=(free,), external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: images.numpy()}
        session.run(None, given)
        runs["timm onnx"] = lambda: session.run(None, given)
    except Exception as error:  # what a peer's export raises is its own affair
        print(f"  timm's export of {name} failed: {str(error).splitlines()[0][:120]}")
    return runs


@torch.inference_mode()
def time_in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """The least processor seconds of each."""
    least = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - start)
    return least


def show(name: str, figures: dict[str, float]) -> None:
    base = figures["torch fp32 ms"]
    print(f"{name}: torch fp32 {base:.2f} ms of processor time an image")
    for engine, times in figures.items():
        if not engine.endswith(" ms"):
            print(f"  {engine:<20} x{times:.2f}  {base / times:8.2f} ms")


if __name__ == "__main__":
    main()
