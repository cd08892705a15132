"""A plan as lines for people: a table of the ways to divide the model, the time, the data, and how much of it is
certain."""

from collections.abc import Sequence

from vitrail.report.plan.plan import ModelNumbers, Plan, Strategy, Training

MEASURED = (
    "two processes have the gradients of one (tests/faults/test_many_processes.py)",
    "collectives a step: 2 L + 1 gathers and L + 1 reductions of L blocks, and bytes and padding at 1,024 ranks within "
    "10 % of the formulas, with torch's fake process group",
    "killed, stopped and lost processes: the same run to the bit, or an end by name (tests/faults)",
)
NOT_MEASURED = (
    "the MFU: it is assumed, not measured; benchmarks/gpu.py measures it on a GPU",
    "how much of the communication hides behind arithmetic; NCCL, networks and their failures",
    "what a store of images delivers",
)
HEAD = ("", "state", "activations", "micro-batch", "sent a step", "as time", "padding")


def describe(model: ModelNumbers, training: Training, plan: Plan, gpu: str) -> list[str]:
    """The plan in lines."""
    height, width = model.size
    rows = [HEAD, *(row(s, s.name == plan.recommended.name) for s in plan.strategies)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD))]
    table = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    share = training.batch // training.gpus
    chosen = plan.recommended
    return [
        f"{model.name} at {height}x{width}: {model.parameters / 1e6:,.0f} M parameters, "
        f"{2 * model.macs / 1e9:,.1f} GFLOP a forward pass",
        f"{training.gpus:,} {gpu.upper()}, {training.per_machine} a machine; batch {training.batch:,}, {share:,} a GPU",
        "",
        "on each GPU:",
        *(line.rstrip() for line in table),
        "",
        f"recommended: --parallel {chosen.name}, {reason(plan)}",
        *([f"by memory alone a run chooses {plan.auto.name}: {plan.auto.reason}"] if plan.auto.reason else []),
        *warnings(training, plan),
        "",
        f"step       {plan.step_s * 1e3:,.0f} ms at {training.mfu:.0%} MFU: {plan.compute_s * 1e3:,.0f} ms of "
        f"arithmetic, {chosen.comm_s * 1e3:,.0f} ms of communication, of which "
        f"{(plan.step_s - plan.compute_s) * 1e3:,.0f} cannot hide behind it",
        f"images     {plan.images_per_s:,.0f} a second: {size(plan.data_bytes_per_s)}/s, {plan.decode_cores:,} cores "
        f"that read {training.core_images_per_s:,.0f} a second each",
        f"training   {plan.steps:,} steps, {days(plan.days)} for {training.epochs:g} epochs of {training.images:,} "
        "images",
        f"failures   one in {plan.failure_every_s / 3600:,.0f} h; a checkpoint of {size(plan.checkpoint_bytes)} every "
        f"{plan.save_every_s / 60:,.0f} min; {plan.lost:.1%} of the time is lost",
        "",
        "measured, on two cores without a GPU:",
        *(f"  {line}" for line in MEASURED),
        "not measured:",
        *(f"  {line}" for line in NOT_MEASURED),
    ]


def row(strategy: Strategy, is_chosen: bool) -> Sequence[str]:
    """A line of the table."""
    fits = f"{strategy.micro_batch}" + (f" x {strategy.accumulation}" if strategy.accumulation > 1 else "")
    return (
        f"{'*' if is_chosen else ' '} {strategy.name}",
        size(strategy.state),
        size(strategy.activations) if strategy.micro_batch else "-",
        fits if strategy.micro_batch else "does not fit",
        size(strategy.wire),
        f"{strategy.comm_s * 1e3:,.1f} ms",
        f"{strategy.padding:.2f}",
    )


def reason(plan: Plan) -> str:
    """Why it is recommended."""
    chosen, others = plan.recommended, [s for s in plan.strategies if s.name != plan.recommended.name]
    if not others:
        return "of one GPU nothing is divided"
    too_large = [s.name for s in others if not s.micro_batch]
    if not chosen.micro_batch:
        return "which needs the least memory"
    slower = [f"{s.name} {s.comm_s * 1e3:,.0f} ms" for s in others if s.micro_batch and s.comm_s > 1.1 * chosen.comm_s]
    words = [f"{' and '.join(too_large)} would not fit"] if too_large else []
    words += [f"which communicates for {chosen.comm_s * 1e3:,.0f} ms ({', '.join(slower)})"] if slower else []
    return "; ".join(words) or "the simplest, and as fast as any"


def warnings(training: Training, plan: Plan) -> list[str]:
    """What speaks against the plan."""
    found, chosen = [], plan.recommended
    if not chosen.micro_batch:
        found.append("not even one image fits: --grad-checkpoint full, more GPUs, or GPUs with more memory")
    if chosen.padding > 1.1:
        found.append(f"padding: each GPU holds {chosen.padding:.2f} times its share; hsdp, or fewer GPUs a copy")
    if chosen.comm_s > plan.compute_s:
        found.append("communication takes longer than arithmetic: a larger batch, or fewer GPUs")
    if training.batch > 32_768:
        found.append(f"a batch of {training.batch:,} is beyond usual recipes (4,096 to 32,768)")
    return [f"warning: {line}" for line in found]


def size(count: float) -> str:
    """Bytes for people.

    >>> size(1.5e9), size(2e6), size(3.25e12)
    ('1.5 GB', '2.0 MB', '3.2 TB')
    """
    for factor, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count / 1e6:,.1f} MB"


def days(count: float) -> str:
    """A duration.

    >>> days(2.54), days(0.25)
    ('2.5 days', '6.0 hours')
    """
    return f"{count:,.1f} days" if count >= 1 else f"{count * 24:,.1f} hours"
