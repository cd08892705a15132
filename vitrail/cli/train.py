"""`vitrail train`: trains a model by a recipe or on a data set, or resumes a run, and writes the report."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.syntax.arguments import check_machine, read, recipe_flags
from vitrail.cli.syntax.flags import KEYED, NAMING, changes_of
from vitrail.cli.syntax.keys import Given
from vitrail.cli.syntax.verb import OnDevice, Verb
from vitrail.errors import UsageError, VitrailError, choose
from vitrail.recipe import SECTIONS, Recipe, override
from vitrail.recipe import find as find_recipe
from vitrail.recipe import read as read_recipe
from vitrail.validation import as_path


@dataclass
class TrainingRequest(OnDevice):
    """Options of every command that trains, beside the keys of a recipe."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = ""
    """A recipe file (.toml)."""


@dataclass
class Train(TrainingRequest):
    """Train a model on images.

    Options you omit are chosen from your data; the reason is printed.

    vitrail train --data mini
    vitrail train --data photos --epochs 30 --batch-size 64 --lr 1e-3 --img-size 224
    vitrail train recipes/mini.toml --augment.mixup 0.2 --out runs/a
    vitrail train --resume runs/a
    """

    out: Path | None = None
    """Folder of the run (default: a new one in runs/)."""
    resume: str = ""
    """Continue this run: its folder, or its name in runs/."""
    allow_change: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY")] = ()
    """With --resume: a key that may change (repeatable)."""
    dry_run: bool = False
    """Check data and recipe, print the plan, write nothing."""
    quiet: bool = False
    """Print only the final metrics."""


def train(words: list[str]) -> None:
    given, keys = read(VERB, words)
    run(given, keys, Console(quiet=given.quiet))


def run(given: Train, keys: Given, console: Console, command: list[str] | None = None) -> Path | None:
    """Trains as `given` and `keys` say, of the command line or of `vitrail.train`. Returns the folder of the run; None
    after a dry run. command: the words that the run keeps, by default those of this process."""
    keys = sort_by_section(keys)
    check(given)
    recipe = build_recipe(given, keys)
    check_machine(given.device, recipe.runtime)
    from vitrail.engine.processes import world as worlds

    world = worlds.join(given.device, recipe.runtime.timeout)
    console.quiet = console.quiet or not world.is_first
    with world.explain_loss("start it again"):
        if given.resume:
            folder = resume(given, keys, world, console)
        else:
            folder = start(given, recipe, world, console, command)
        worlds.leave(world)
    return folder


def sort_by_section(keys: Given) -> Given:
    """The keys, first those that name data, model, task and weights: the others depend on them."""
    naming = [(flag.key[0], set(changes_of(flag, ""))) for flag in KEYED if flag.key and flag.name in NAMING]
    return sorted(keys, key=lambda one: (one[0], set(one[1])) not in naming)


def check(given: Train) -> None:
    """Errors: `UsageError` for flags that exclude each other."""
    if given.resume and (given.recipe or given.out):
        raise UsageError(
            "--resume continues a run as it is; a recipe file or --out cannot go with it", "vitrail train --resume RUN"
        )
    if given.allow_change and not given.resume:
        raise UsageError("--allow-change belongs to --resume", "vitrail train --resume RUN --allow-change KEY")
    for key in given.allow_change:
        keys_of_recipes = [k[2:] for k in recipe_flags()] + ["model.name", "data.name", "task.name"]
        choose(key.replace("_", "-"), keys_of_recipes, "key", "keys are written as in --allow-change optim.lr")


def build_recipe(given: TrainingRequest, keys: Given) -> Recipe:
    """The recipe of a file and of keys; what is certainly wrong is refused before torch is imported."""
    if given.recipe and not given.recipe.endswith(".toml") and any(section == "data" for section, _ in keys):
        raise UsageError(f"unexpected argument {given.recipe!r}: --data was already given",
                         """a list as the value of one key is written '["a", "b"]'""")  # fmt: skip
    recipe = read_recipe(find_recipe(as_path(given.recipe))) if given.recipe else Recipe()
    for section, values in keys:
        recipe = override(recipe, section, values)
    if recipe.train.steps is not None and recipe.train.epochs is not None:
        both = {k for section, values in keys if section == "train" for k in values} & {"steps", "epochs"}
        if len(both) == 2 or not both:
            raise UsageError("--steps and --epochs are both given", "give one of them")
        other = {"steps": "epochs", "epochs": "steps"}[both.pop()]
        train_config = dataclasses.replace(recipe.train, **{other: None})  # type: ignore[arg-type]
        recipe = dataclasses.replace(recipe, train=train_config)
    return recipe


def start(given: Train, recipe: Recipe, world: Any, console: Console, command: list[str] | None) -> Path | None:
    from vitrail.assembly import run_directory as folder
    from vitrail.training.create import create_session, plan_session
    from vitrail.training.restart import find_begun

    out = as_path(given.out) if given.out else None
    if not given.dry_run and (begun := find_begun(out, world)):
        console.say(f"started again by torchrun; {begun.path} goes on")
        return resume(dataclasses.replace(given, resume=str(begun.path)), [], world, console)
    world.on_rank_zero(lambda: folder.check_writable(out or Path("runs") / ".new"))
    if given.dry_run:
        planned, prepared, needs = plan_session(recipe, out, world, console.progress("reading images"))
        console.prepared(prepared)
        console.weights_report(planned.load_report)
        console.say(f"nothing was written; {prepared.recipe.train.steps} steps would be done, in {needs}")
        return None
    new, prepared = create_session(recipe, out, world, console.progress("reading images"), command)
    console.prepared(prepared)
    for note in new.notes:
        if note not in (*prepared.dataset.notes, *prepared.notes):
            console.say(f"  note: {note}")
    console.weights_report(new.load_report)
    return run_to_end(new, console, is_new=True)


def resume(given: Train, keys: Given, world: Any, console: Console) -> Path | None:
    from vitrail.assembly import run_directory as folder
    from vitrail.training import resume as resuming

    run = folder.find_run(given.resume)
    keys = [
        (section, {k: v for k, v in values.items() if section != "data" or k != "name"}) for section, values in keys
    ]
    resumed = resuming.resume_session(run, keys, [k.replace("-", "_") for k in given.allow_change], world)
    for note in resumed.notes:
        console.say(note)
    console.say(f"{run.path}: from step {resumed.state.step} of {resumed.steps}")
    return None if given.dry_run else run_to_end(resumed, console, is_new=False)


def run_to_end(session: Any, console: Console, is_new: bool) -> Path:
    """Trains a session to its end with a live display, and writes the report. Returns the folder of the run."""
    from vitrail.training.start import run_session

    console.start(session)
    try:
        for event in stop_display_on_error(run_session(session, is_new), console):
            console.event(event)
    finally:
        console.stop()
    if session.world.is_first:
        console.finished(session, write_report(session, console))
    path: Path = session.folder.path
    return path


def stop_display_on_error(events: Iterator[Any], console: Console) -> Iterator[Any]:
    """Leaves the live display before an error is printed, so that neither is lost."""
    try:
        yield from events
    except VitrailError:
        console.stop()
        raise


def write_report(session: Any, console: Console) -> Path | None:
    """The report; None where it could not be written, which is printed and does not fail the run."""
    from vitrail.report.page.run_page import build_report

    try:
        return build_report(session.folder.path)
    except (OSError, VitrailError) as error:
        console.say(f"the report could not be written: {error}")
        return None


VERB = Verb("train", Train, train, KEYED, SECTIONS)
