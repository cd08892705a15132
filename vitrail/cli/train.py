"""`vitrail train`: a recipe, a data set, or a run to continue, to a finished run with its report."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import Given, arguments, device, recipe_flags, take_keys
from vitrail.errors import UsageError, VitrailError, pick
from vitrail.recipe import Augment, Input, Machine, Optim, Plan, Recipe, Start, find, override, read
from vitrail.validation import place


@dataclass
class Asked:
    """What is to be trained, on what and how: the words of every command that trains."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = ""
    """A recipe file (.toml), yours or one of those that come along (recipes/mini.toml)."""
    data: str = ""
    """"mini", a folder of class folders, a .csv or .tsv, a folder of IDX files, or a MedMNIST .npz."""
    model: str = ""
    """A model such as vit/nano; `vitrail models` lists them."""
    task: str = ""
    """What is learned: classification, distillation."""
    weights: str = ""
    """What to begin with: a run, a model folder, or a file of published weights (with --model)."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    start: Start = field(default_factory=Start)
    input: Input = field(default_factory=Input)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    plan: Plan = field(default_factory=Plan)
    machine: Machine = field(default_factory=Machine)


@dataclass
class Train(Asked):
    """Train a model on pictures.

    vitrail train --data mini

    vitrail train --data FOLDER --model vit/nano --plan.epochs 20

    vitrail train recipes/mini.toml --optim.lr 1e-3 --out runs/a

    vitrail train --resume runs/a

    Keys of a model (--model.depth 6, ...) are listed by `vitrail models NAME`. What is left out, or None, is chosen
    from the data and said with its reason.
    """

    out: Path | None = None
    """The folder of the run; by default a new one under runs/."""
    resume: str = ""
    """Continue this run: its folder, a file in it, or its name under runs/."""
    allow_change: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """On resuming, a key such as optim.lr that may change although the result changes with it; say it once for each."""
    dry_run: bool = False
    """Check data and recipe, say what would be done, write nothing."""
    quiet: bool = False
    """Print only the end."""


ARGUMENTS: dict[str, type] = {"train": Train}


def train(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(Train, rest, "vitrail train")
    keys = [*names(given), *keys]
    check(given)
    recipe = asked(given, keys)
    device(given.device)
    from vitrail.engine import world as worlds

    world = worlds.join(given.device)
    console = Console(quiet=given.quiet or not world.first)
    if given.resume:
        resume(given, keys, world, console)
    else:
        begin(given, recipe, world, console)
    worlds.leave(world)


def names(given: Asked) -> Given:
    """--data, --model and --task as keys of a recipe."""
    found: Given = [("data", {"name": "", "path": given.data})] if given.data else []
    for section in ("model", "task"):
        if getattr(given, section):
            found.append((section, {"name": getattr(given, section)}))
    return [*found, ("start", {"weights": given.weights})] if given.weights else found


def check(given: Train) -> None:
    """Errors: `UsageError` for words that do not go together."""
    if given.resume and (given.recipe or given.out):
        raise UsageError("--resume goes on with a run as it is; a recipe file or --out cannot go with it", "vitrail train --resume RUN")
    if given.allow_change and not given.resume:
        raise UsageError("--allow-change belongs to --resume", "vitrail train --resume RUN --allow-change KEY")
    for key in given.allow_change:
        keys_of_recipes = [k[2:] for k in recipe_flags()] + ["model.name", "data.name", "task.name"]
        pick(key.replace("_", "-"), keys_of_recipes, "key", "keys are written as in --allow-change optim.lr")


def asked(given: Asked, keys: Given) -> Recipe:
    """The recipe that was asked for, with what can be known to be wrong refused before torch is imported."""
    if given.recipe and given.data and not given.recipe.endswith(".toml"):
        raise UsageError(f"what is {given.recipe!r} for? The data is said already: --data {given.data}",
                         """a list as the value of one key is written '["a", "b"]'""")  # fmt: skip
    recipe = read(find(place(given.recipe))) if given.recipe else Recipe()
    for section, values in keys:
        recipe = override(recipe, section, values)
    if recipe.plan.steps is not None and recipe.plan.epochs is not None:
        both = {k for section, values in keys if section == "plan" for k in values} & {"steps", "epochs"}
        if len(both) == 2 or not both:
            raise UsageError("plan.steps and plan.epochs are both given", "say one of them")
        other = {"steps": "epochs", "epochs": "steps"}[both.pop()]
        recipe = dataclasses.replace(recipe, plan=dataclasses.replace(recipe.plan, **{other: None}))  # type: ignore[arg-type]
    return recipe


def begin(given: Train, recipe: Recipe, world: Any, console: Console) -> None:
    from vitrail.assembly import run_directory
    from vitrail.assembly.prepare import prepare
    from vitrail.training import session

    wanted = place(given.out) if given.out else None
    world.once(lambda: run_directory.check_writable(wanted or Path("runs") / ".new"))
    if given.dry_run:
        prepared = prepare(recipe, world, console.progress("reading pictures"))
        made = session.build(prepared.recipe, prepared.dataset, run_directory.RunFolder(wanted or Path("runs")), world, prepared.names)
        made.taken = session.begin(made, prepared)
        console.prepared(prepared)
        console.taken(made.taken)
        console.say(f"nothing was written; {prepared.recipe.plan.steps} steps would be done")
        return
    new, prepared = session.new(recipe, wanted, world, console.progress("reading pictures"))
    console.prepared(prepared)
    for note in new.notes:
        if note not in (*prepared.dataset.notes, *prepared.notes):
            console.say(f"  note: {note}")
    console.taken(new.taken)
    follow(new, console)


def resume(given: Train, keys: Given, world: Any, console: Console) -> None:
    from vitrail.assembly import run_directory
    from vitrail.training import resume

    run = run_directory.find(given.resume)
    keys = [(section, {k: v for k, v in values.items() if section != "data" or k != "name"}) for section, values in keys]
    again = resume.old(run, keys, [k.replace("-", "_") for k in given.allow_change], world)
    for note in again.notes:
        console.say(note)
    console.say(f"{run.path}: from step {again.state.step} of {again.steps}")
    if given.dry_run:
        return
    follow(again, console)


def follow(session: Any, console: Console) -> None:
    """Runs a session to its end, shows it, and writes the report."""
    from vitrail.training.loop import run

    console.start(session)
    try:
        for event in watched(run(session), console):
            console.event(event)
    finally:
        console.stop()
    if session.world.first:
        console.finished(session, page(session, console))


def watched(events: Iterator[Any], console: Console) -> Iterator[Any]:
    """Leaves the live display before an error is told, so that neither is lost."""
    try:
        yield from events
    except VitrailError:
        console.stop()
        raise


def page(session: Any, console: Console) -> Path | None:
    """The report; that it could not be written is told but does not undo the run."""
    from vitrail.report.page.run_page import build

    try:
        return build(session.folder.path)
    except (OSError, VitrailError) as error:
        console.say(f"the report could not be written: {error}")
        return None
