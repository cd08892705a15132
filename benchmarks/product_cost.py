"""Rows of `product.py`: the start of the command, checkpoints, masks."""

import contextlib
import io
import os
import shutil
from pathlib import Path

import torch
from product import Place, Row, Side, Skip, command_time, processor_time
from safetensors.torch import save_file

import vitrail
from vitrail.cli.main import main
from vitrail.engine import checkpoint
from vitrail.engine.state import State


def status(key: str) -> int:
    """Bytes that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def large_state() -> State:
    """vit/large after a step of AdamW: 3.65 GB of tensors."""
    net = vitrail.create("vit/large")
    optimizer = torch.optim.AdamW(net.parameters())
    for p in net.parameters():
        moments = {"exp_avg": torch.randn_like(p.detach()), "exp_avg_sq": torch.rand_like(p.detach())}
        optimizer.state[p] = {"step": torch.tensor(1.0), **moments}
    return State(net, optimizer)


def save_checkpoint(state: State, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.save(folder, state.tensors(), state.numbers())


def checkpoint_seconds(place: Place) -> tuple[Side, Side]:
    """A checkpoint with its hashes, synced, and the same tensors by `save_file`, neither hashed nor synced."""
    state, plain = large_state(), place.folder / "plain"

    def theirs() -> None:
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir()
        for name, tensors in state.tensors().items():
            save_file({key: t.detach().contiguous() for key, t in tensors.items()}, plain / f"{name}.safetensors")

    return processor_time(lambda: save_checkpoint(state, place.folder / "ours")), processor_time(theirs)


def checkpoint_memory(place: Place) -> tuple[Side, Side]:
    """The peak of memory above what was there before, and the bytes of the tensors."""
    if not Path("/proc/self/clear_refs").exists():
        raise Skip("only Linux counts the peak of a part of a process's time")
    state = large_state()
    size = sum(t.numel() * t.element_size() for part in state.tensors().values() for t in part.values())

    def ours() -> float:
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
        before = status("VmRSS")
        save_checkpoint(state, place.folder / "ours")
        return status("VmHWM") - before

    return ours, lambda: size


def predict_one(place: Place) -> tuple[Side, Side]:
    """`vitrail predict RUN IMAGE` of an image that is resized, and `import torch`."""
    from PIL import Image

    image = place.folder / "image.png"
    Image.new("RGB", (500, 400), (200, 100, 50)).save(image)
    vitrail.save(vitrail.create("vit/nano", classes=10), place.folder / "model")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    ours = command_time("-m", "vitrail", "predict", place.folder / "model", image)
    return ours, command_time("-c", "import torch")


def predict_masks(place: Place) -> tuple[Side, Side]:
    """`vitrail predict` of 128 photographs of 256 x 256, with label maps, overlays and tables, and the model alone on
    as many images of its own size in batches of 16: the segmentation model that a small data set gets by itself."""
    from product_data import write_photographs

    run, folder, count = place.folder / "run", place.folder / "images", 128
    words = ["train", "--data", "shapes", "--task", "segmentation", "--steps", "1", "--train.eval-every", "0"]
    quiet(*words, "--device", "cpu", "--out", str(run))
    write_photographs(folder, count, (256, 256))
    bundle = vitrail.load(run).bundle
    images = torch.randn(16, bundle.recipe.input.channels, *bundle.recipe.input.size)

    def ours() -> None:
        shutil.rmtree(place.folder / "out", ignore_errors=True)
        quiet("predict", str(run), str(folder), "--out", str(place.folder / "out"))

    def theirs() -> None:
        with torch.no_grad():
            for _ in range(count // 16):
                bundle.model(images)

    return processor_time(ours), processor_time(theirs)


def quiet(*words: str) -> None:
    """A command in this process, whose imports are done."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if code := main(list(words)):
            raise RuntimeError(f"vitrail {' '.join(words)} ended with {code}")


ROWS = (
    Row("predict", "`vitrail predict` of one image / `import torch`", "<= 1.4", predict_one),
    Row("predict-masks", "`vitrail predict` of masks / the model in batches of 16", "<= 3", predict_masks),
    Row(
        "checkpoint",
        "a checkpoint of vit/large with AdamW / `safetensors.torch.save_file`",
        "<= 1.5",
        checkpoint_seconds,
    ),
    Row("checkpoint-memory", "the same, peak above the tensors / the tensors", "<= 0.1", checkpoint_memory),
)
