"""`vitrail plan`: what a training on many GPUs will take, by formulas."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.flags import expand_short_flags
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, Verb
from vitrail.engine.processes.formulas import nearest_batches
from vitrail.errors import UsageError, choose
from vitrail.storage.json_text import to_json

if TYPE_CHECKING:
    from vitrail.report.plan.plan import ModelNumbers, Plan, Training


LEAST = {"epochs": 1e-6, "image_kb": 1e-3, "core_images_per_s": 1e-3}  # of the numbers of a plan; else 1
MOST = {  # beyond these they are typing errors
    "gpus": 10**6, "gpus_per_machine": 10**4, "images": 10**13, "epochs": 10**6, "image_kb": 10**7,
    "core_images_per_s": 10**9,
}  # fmt: skip
LARGEST_BATCH = 10**9


@dataclass
class PlanArguments(AsJson):
    """Memory, bytes moved, data and days of a training on many GPUs, before you reserve them.

    By formulas: nothing is trained. MFU is the share of the GPU's rate that training reaches.

    vitrail plan --gpus 8 --model vit/base --batch-size 2048
    vitrail plan --gpus 1024 --model vit/giant --batch-size 32768 --mfu 0.35
    vitrail plan --gpus 64 --gpu a100 --model swin/large --batch-size 4096 --grad-checkpoint full --json
    """

    model: str = ""
    """A model such as vit/giant; keys of it go with it."""
    gpus: int = 8
    """GPUs of all machines together."""
    batch_size: int | None = None
    """Images per step, over all GPUs (default: 128 each)."""
    gpus_per_machine: int = 8
    """GPUs of one machine."""
    gpu: str = "h100"
    """a100, h100, h200 or b200."""
    img_size: int = 0
    """Height and width in pixels (default: the model's own)."""
    mfu: float = 0.35
    """Assumed share of the GPU's bf16 rate, 0 to 1."""
    images: int = 1_281_167
    """Training images."""
    epochs: float = 300
    """Passes over them."""
    grad_checkpoint: Literal["none", "selective", "full"] = "none"
    """Activations to compute again in the backward pass."""
    averages: int = 0
    """Averaged copies of the weights (optim.ema_decay)."""
    image_kb: float = 110
    """Mean size of an image's file."""
    core_images_per_s: float = 250
    """Images per second that one processor core reads."""
    simulate: bool = False
    """Also take a step with torch's fake processes (about a minute)."""


def plan(words: list[str]) -> None:
    given, keys = read(VERB, expand_short_flags(words))
    training = read_training(given)
    numbers = count_model(given, keys_of("model", keys))
    from vitrail.report.plan.plan import plan_training
    from vitrail.report.plan.text import MEASURED, NOT_MEASURED, describe

    found = plan_training(numbers, training)
    simulated = simulate(given, keys_of("model", keys), numbers, found) if given.simulate else {}
    if given.json:
        strategies = [strategy._asdict() | {"traffic": strategy.traffic._asdict()} for strategy in found.strategies]
        asked = asdict(training) | {"gpu": {"name": given.gpu, **training.gpu._asdict()}}
        model = {k: v for k, v in numbers._asdict().items() if k != "shapes"}
        rest = {
            **found._asdict(),
            "strategies": strategies,
            "recommended": found.recommended.name,
            "auto": found.auto._asdict(),
        }
        facts = {"measured": list(MEASURED), "not_measured": list(NOT_MEASURED)}
        sys.stdout.write(to_json({"model": model, "training": asked, **rest, "simulated": simulated, **facts}) + "\n")
        return
    print("\n".join([*describe(numbers, training, found, given.gpu), *describe_simulation(simulated)]))


def read_training(given: PlanArguments) -> "Training":
    """The options of the command, each checked. Errors: `UsageError`."""
    from vitrail.report.plan.gpus import GPUS
    from vitrail.report.plan.plan import Training

    if not given.model:
        raise UsageError("vitrail plan needs --model", "vitrail plan --gpus 8 --model vit/base")
    numbers = vars(given)
    for name, most in MOST.items():
        if not LEAST.get(name, 1) <= numbers[name] <= most:
            flag = f"--{name.replace('_', '-')}"
            what = f"{flag} takes a number above 0, up to {most:,}, not {numbers[name]:g}"
            raise UsageError(what, "vitrail plan --help")
    if not 0 < given.mfu <= 1:
        raise UsageError(f"--mfu is a share between 0 and 1, not {given.mfu:g}", "--mfu 0.35")
    if given.averages < 0 or given.img_size < 0:
        raise UsageError("--averages and --img-size take no number below 0", "vitrail plan --help")
    if given.batch_size is not None and not 0 < given.batch_size <= LARGEST_BATCH:
        what = f"--batch-size takes a number of images from 1 to {LARGEST_BATCH:,}, not {given.batch_size:,}"
        raise UsageError(what, "--batch-size 32768, or leave it out for 128 each")
    choose(given.gpu, GPUS, "GPU", "those that are known by their data sheets")
    batch = given.batch_size or 128 * given.gpus
    if batch % given.gpus:
        near = " or ".join(map(str, nearest_batches(batch, given.gpus)))
        raise UsageError(f"batch size {batch} is not divisible by {given.gpus} GPUs", f"--batch-size {near}")
    return Training(
        given.gpus, given.gpus_per_machine, batch, GPUS[given.gpu], given.mfu, given.epochs, given.images,
        given.grad_checkpoint, given.averages, round(given.image_kb * 1000), given.core_images_per_s,
    )  # fmt: skip


def count_model(given: PlanArguments, keys: dict[str, Any]) -> "ModelNumbers":
    """The numbers of the model, counted on the meta device. Errors: `UsageError`."""
    from vitrail.analysis.block_values import count_block_values
    from vitrail.cli.cost import build_named, count_cost
    from vitrail.engine.processes.simulate import shapes_of
    from vitrail.report.plan.plan import ModelNumbers

    size = (given.img_size, given.img_size) if given.img_size else None
    model = build_named(given.model, 1000, keys)
    found = count_cost(given.model, model, size, 1)
    values = count_block_values(model, found.size)
    return ModelNumbers(given.model, found.size, found.parameters, found.macs, values, tuple(shapes_of(model)))


def simulate(given: PlanArguments, keys: dict[str, Any], numbers: "ModelNumbers", found: "Plan") -> dict[str, Any]:
    """The bytes of a step as torch's own FSDP moves them among processes that do not exist, and those of the formula:
    of the recommended way, or where that divides nothing, of the last. Empty for one GPU."""
    import torch

    from vitrail.analysis.cost import input_shape, make_inputs
    from vitrail.cli.cost import build_named
    from vitrail.engine.processes.simulate import simulate_step

    strategy = found.recommended if found.recommended.shards > 1 else found.strategies[-1]
    if strategy.shards == 1:
        return {}
    model = build_named(given.model, 1000, keys)
    with torch.device("meta"):
        inputs = make_inputs(model, 1, input_shape(model)[0], numbers.size)
    step = simulate_step(model, inputs, strategy.shards * strategy.replicas, strategy.shards)
    return {"name": strategy.name, "step": step._asdict(), "formula": strategy.traffic._asdict()}


def describe_simulation(simulated: dict[str, Any]) -> list[str]:
    """The simulated step beside the formula, in lines."""
    if not simulated:
        return []
    names = {"all_gather": "gathered", "reduce_scatter": "reduced among shards", "all_reduce": "reduced among copies"}
    step, formula = simulated["step"], simulated["formula"]
    rows = [f"  {words}: {step[k] / 1e6:,.1f} MB; formula {formula[k] / 1e6:,.1f} MB" for k, words in names.items()]
    return [f"simulated, a step of {simulated['name']} with torch's fake processes:", *rows]


VERB = Verb("plan", PlanArguments, plan, sections=("model",), changes="what a training takes")
