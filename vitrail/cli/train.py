"""`vitrail train`: trains a model by a recipe or on a data set, or resumes a run, and writes the report."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.cluster import launch, preempted
from vitrail.cli.output.console import Console
from vitrail.cli.output.training import run_to_end
from vitrail.cli.syntax.arguments import check_machine, read, recipe_flags
from vitrail.cli.syntax.flags import KEYED, NAMING, changes_of
from vitrail.cli.syntax.keys import Given
from vitrail.cli.syntax.verb import OnDevice, Verb
from vitrail.errors import UsageError, choose
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
    """Train a model on images. What you omit is chosen from your data.

    vitrail train --data mini
    vitrail train --data photos --epochs 30 --batch-size 64 --lr 1e-3 --img-size 224
    vitrail train recipes/mini.toml --augment.mixup 0.2 --out runs/a
    vitrail train --resume runs/a
    """

    out: Path | None = None
    """Folder of the run (default: a new one in runs/)."""
    resume: str = ""
    """Continue this run: its folder, or its name in runs/."""
    resume_if_there: bool = False
    """Start the run of --out, or continue it."""
    gpus: int | None = None
    """Start one process for each of so many GPUs."""
    nproc: int | None = None
    """Start so many processes, on any device."""
    max_restarts: int = 0
    """Restarts of lost processes of these."""
    allow_change: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY")] = ()
    """With --resume: a key that may change (repeatable)."""
    dry_run: bool = False
    """Check data and recipe, print the plan, write nothing."""
    quiet: bool = False
    """Print only the final metrics."""


def train(words: list[str]) -> int | None:
    with launch.one_voice():
        given, keys = read(VERB, words)
        processes = launch.count_processes(given.gpus, given.nproc, given.device)
        if processes:
            return start_processes(given, sort_by_section(keys), words, processes)
    run(given, keys, Console(quiet=given.quiet))
    return None


def start_processes(given: Train, keys: Given, words: list[str], processes: int) -> int:
    """Runs the same command in several processes, after what one can see is wrong with it. Returns the exit code."""
    check(given)
    recipe = build_recipe(given, keys)
    check_machine(given.device, recipe.runtime)
    launch.check_batch(recipe.train.batch_size, processes)
    there = preempted.read_existing(as_path(given.out), recipe) if given.out and given.resume_if_there else None
    if there and there.is_finished:
        Console(quiet=given.quiet).say(there.text)
        return 0
    return launch.launch(words, processes, given.max_restarts)


def run(given: Train, keys: Given, console: Console, command: list[str] | None = None) -> Path | None:
    """Trains as `given` and `keys` say, of the command line or of `vitrail.train`. Returns the folder of the run; None
    after a dry run. command: the words that the run keeps, by default those of this process."""
    with launch.one_voice():
        keys = sort_by_section(keys)
        check(given)
        recipe = build_recipe(given, keys)
        launch.prepare_worker()
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
    if given.resume_if_there and (given.resume or not given.out):
        raise UsageError(
            "--resume-if-there starts the run of --out, or continues it",
            "--out runs/a --resume-if-there",
        )
    if given.max_restarts < 0 or (given.max_restarts and given.gpus is None and given.nproc is None):
        what = "--max-restarts is how often --gpus or --nproc start lost processes again"
        raise UsageError(what, "--gpus 8 --max-restarts 3")
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

    out = as_path(given.out) if given.out else None
    if there := preempted.find_existing(out, recipe, given.resume_if_there, world):
        console.say(there.text)
        resumed = dataclasses.replace(given, resume=str(there.path))
        return there.path if there.is_finished else resume(resumed, there.keys, world, console)
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


VERB = Verb("train", Train, train, KEYED, SECTIONS)
