"""`vitrail study`: experiments that show what a part of training does."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail.cli.output.console import Console
from vitrail.cli.output.live import clock
from vitrail.cli.output.terminal import rich_console
from vitrail.cli.syntax.arguments import device, read
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import Interrupted, UsageError, choose
from vitrail.validation import as_path, update_config


@dataclass(frozen=True)
class StudyRequest:
    """Options of every study."""

    out: str = ""
    """Folder of the results (default: a new one in studies/)."""
    device: str = "auto"
    """auto, cpu, cuda, mps or a GPU's number (default: auto)."""


@dataclass(frozen=True)
class Study(StudyRequest):
    """Run an experiment on what a part of training does; writes a table, a figure and numbers into a new folder.

    vitrail study
    vitrail study stability --steps 200
    vitrail study stability --help
    vitrail study --resume studies/stability
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """Which study; without: lists all."""
    resume: str = ""
    """Continue an interrupted study: finished rows are kept; the result is the same."""


def study(words: list[str]) -> int:
    if any(word.partition("=")[0] == "--resume" for word in words):
        return resume(words)
    if not words or words[0].startswith("-"):
        if words and not {"-h", "--help"} & set(words):
            raise UsageError("the name of the study comes first", f"vitrail study stability {words[0]} ...")
        read(VERB, words)
        return overview()
    from vitrail import catalog

    name = choose(words[0].replace("_", "-"), names(), "study", "vitrail study lists them")
    if {"-h", "--help"} & set(words):
        read(verb_of(name), words[1:])
    module = catalog.load_module("studies", name.replace("-", "_"))
    given: Any = read(Verb(f"study {name}", join_arguments(module), study), words[1:])[0]
    device(given.device)
    keys = {f.name: getattr(given, f.name) for f in dataclasses.fields(module.Config)}
    config = update_config(module.Config(), keys, name)
    from vitrail.studies._bench import bench

    out: Path = as_path(given.out) if given.out else new_folder(name)
    meter = Meter()
    return run_study(
        module, config, bench.create_bench(name, config, out, single_world(given.device), meter.show_done), meter
    )


def resume(words: list[str]) -> int:
    """Continues a study with the settings in its folder; none can be given."""
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in ("--resume", "--help"):
            raise UsageError(
                f"{word} would change the study: it continues with its own settings",
                "vitrail study --resume FOLDER",
            )
    given, _ = read(VERB, words)
    from vitrail.studies._bench import bench

    path, head = bench.read_head(given.resume)
    if given.name and given.name != head["study"]:
        raise UsageError(f"{path} is of the study {head['study']}, not {given.name}", bench.resume_command(path))
    meter = Meter()
    resumed, module, config = bench.resume_bench(given.resume, single_world(head["device"]), meter.show_done)
    return run_study(module, config, resumed, meter)


def verb_of(name: str) -> Verb[StudyRequest]:
    """A study with all its options, read without importing it."""
    return Verb(f"study {name}", StudyRequest, study, module=f"vitrail.studies.{name.replace('-', '_')}")


def names() -> list[str]:
    """Names of the studies: their modules, with hyphens."""
    from vitrail import catalog

    return [room.replace("_", "-") for room in catalog.list_modules("studies")]


def overview() -> int:
    from vitrail import catalog

    for name in names():
        print(f"{name:<12} {catalog.read_docstring('studies', name.replace('-', '_'))[0]}")
    print("\none of them:  vitrail study stability")
    return 0


def join_arguments(module: Any) -> type:
    """The settings of a study and the options that every study takes, as one class of arguments."""
    names = {
        "__doc__": module.__doc__,
        "__module__": module.__name__,
    }  # where help looks for the comments on the settings
    return dataclasses.make_dataclass("Config", [], bases=(module.Config, StudyRequest), frozen=True, namespace=names)


def run_study(module: Any, config: Any, new_bench: Any, meter: "Meter") -> int:
    """Runs a study and writes its folder. After Ctrl-C it can be continued."""
    from vitrail.report.page.study_page import render_page
    from vitrail.studies._bench.bench import resume_command

    with new_bench as bench, meter:
        try:
            result = module.run(config, bench)
            files = result.files(bench.head)
            if result.parts:
                files["report.html"] = render_page(result, bench.head["command"])
            bench.finish(files)
        except KeyboardInterrupt:
            if not bench.open:
                raise
            raise Interrupted(
                f"stopped; every finished row is in {bench.path}", f"continue with: {resume_command(bench.path)}"
            ) from None
        meter.print_line("\n".join(["", *result.lines, "", f"measured in {clock(bench.seconds())}"]))
        meter.print_line(f"written: {', '.join(str(bench.path / file) for file in files)}")
    return 0


def single_world(name: str) -> Any:
    from vitrail.engine.processes import world as worlds
    from vitrail.engine.processes.world import single_process

    return single_process(worlds.best_device() if name == "auto" else worlds.named_device(name))


def new_folder(name: str) -> Path:
    """A folder under studies/ that does not exist yet."""
    number, path = 1, Path("studies") / name
    while path.exists():
        number += 1
        path = Path("studies") / f"{name}-{number}"
    return path


class Meter:
    """A line for each finished row; on a terminal a progress bar with the time left below them."""

    def __init__(self) -> None:
        self.console = Console()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = self.console.live = None

    def print_line(self, text: str) -> None:
        self.stop()
        self.console.say(text)

    def show_done(self, done: Any) -> None:
        """Shows a row. The bar ends with the last one."""
        eta = "" if done.left is None or done.number == done.of else f"eta {clock(done.left)}"
        seed = f"seed {done.job.seed}"
        if self.console.terminal:
            self.advance(done, eta)
            self.console.say(f"{done.job.row:<32} {seed}  {done.line}".rstrip())
        else:
            self.console.say(
                f"{done.number:>{len(str(done.of))}}/{done.of}  {done.job.row:<32} {seed}  {done.line}  {eta}".rstrip()
            )
        if done.number == done.of:
            self.stop()

    def advance(self, done: Any, eta: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if self.bar is None:
            columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
            self.bar = self.console.live = Progress(*columns, console=rich_console(), transient=True)
            self.task = self.bar.add_task("rows", total=done.of, eta="")
            self.bar.start()
        self.bar.update(self.task, completed=done.number, eta=eta)


VERB = Verb("study", Study, study)
