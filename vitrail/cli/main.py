"""The command `vitrail`: runs a subcommand; prints an error as at most five lines and returns its exit code."""

import io
import os
import sys
import textwrap
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitrail.cli.output.terminal import printable_streams
from vitrail.errors import UsageError, VitrailError, choose
from vitrail.storage.printable import printable

if TYPE_CHECKING:
    from vitrail.cli.syntax.verb import Verb

COMMANDS = {  # name: (module, what it does)
    "train": ("train", "train or fine-tune a model on images; continue a run"),
    "eval": ("evaluate", "evaluate a trained model on held-out images"),
    "predict": ("predict", "predict classes, masks or boxes of images"),
    "search": ("texts.search", "find the images of a folder that a text describes"),
    "export": ("deploy.export", "write a trained model as a file that runs anywhere, with proof"),
    "serve": ("deploy.serve", "serve trained models over HTTP, with a page and metrics"),
    "bench": ("deploy.bench", "measure every engine that runs a model, and recommend one"),
    "sample": ("sample", "generate images with a trained generative model"),
    "check": ("check", "examine a data set before training on it"),
    "pack": ("data.pack", "write a data set as tar shards with an index"),
    "import": ("import_weights", "convert published weights into a model folder"),
    "weights": ("hub.weights", "list published weights by name"),
    "fetch": ("hub.fetch", "fetch weights by name; make a folder of them to carry"),
    "push": ("hub.push", "publish the model of a run on the hub"),
    "models": ("models", "list the models, or the settings of one"),
    "cost": ("cost", "parameters, multiply-adds and memory of a model"),
    "plan": ("cluster.plan", "memory, bytes moved and days of a training on many GPUs"),
    "report": ("report", "write the HTML report of a run"),
    "look": ("look", "show attention maps, and inspect the layers of a model"),
    "compare": ("compare", "compare runs: recipes, metrics, disagreements, cost"),
    "probe": ("probe", "evaluate frozen features: linear probe and k-NN"),
    "tune-lr": ("tune_lr", "find a learning rate by a range test"),
    "study": ("study", "experiments that show what a part of training does"),
    "doctor": ("doctor", "find out what is wrong with this machine, or with a run"),
    "completion": ("completion", "print the completion script of bash, zsh or fish"),
}
WIDEST = 96  # columns of an error line


def main(words: list[str]) -> int:
    """Runs the command in `words`. Returns the exit code: 0, 1 run, 2 usage, 3 data, 4 checkpoint, 130/143 signals."""
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark, not a traceback
    with printable_streams():
        return run(words, debug)


def run(words: list[str], debug: bool) -> int:
    """Runs the command; errors become lines and exit codes."""
    try:
        code = dispatch(import_modules(words)) or 0
        sys.stdout.flush()
        return code
    except VitrailError as error:
        if debug:
            traceback.print_exc()
        from vitrail.cli.cluster.launch import is_repeated_refusal

        if not error.is_repeated and not is_repeated_refusal(error):
            print_error(error.what, error.fix)
        return error.code
    except KeyboardInterrupt:
        print_error("stopped", "")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has closed the pipe: no error
        return 0
    except SystemExit as exit_request:  # help was printed
        status = exit_request.code
        return status if isinstance(status, int) else 0 if status is None else 2
    except Exception as error:
        if debug:
            raise
        print_error(*describe_unexpected(error))
        return 1


def import_modules(words: list[str]) -> list[str]:
    """The words without every `--module NAME`, which imports a module of the user's: a name in a file never does."""
    rest, names = [], []
    pending = iter(words)
    for word in pending:
        flag, equals, value = word.partition("=")
        if flag == "--module":
            names.append(value if equals else next(pending, ""))
        else:
            rest.append(word)
    for name in names:
        from vitrail import catalog

        if not (catalog.is_dotted(name) and name.replace(".", "").isidentifier()):
            what = f"--module takes the name of a Python module with a dot, not {name!r}"
            raise UsageError(what, "--module mine.wavelets")
        catalog.import_typed(name)
    return rest


def dispatch(words: list[str]) -> int | None:
    if words[:1] == ["help"] and words[1:]:
        words = [words[1], "--help", *words[2:]]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        from vitrail.version import __version__

        sys.stdout.write(f"vitrail {__version__}\n")
        return 0
    option = words[0].startswith("-")
    if option and (later := [w for w in words if w in COMMANDS]):
        raise UsageError(f"the command comes first, then {words[0]}", f"vitrail {later[0]} {words[0]} ...")
    choices = ("--help", "--version", "--debug") if option else tuple(COMMANDS)
    name = choose(words[0], choices, "option" if option else "command", "vitrail --help lists all commands")
    return command(name).run(words[1:])


def command(name: str) -> "Verb[Any]":
    module = import_module(f"vitrail.cli.{COMMANDS[name][0]}")
    verb: Verb[Any] = module.VERB
    return verb


def overview() -> str:
    rows = "\n".join(f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items())
    return f"""Vision Transformers: train, fine-tune, evaluate, inspect and sample them.

usage: vitrail COMMAND [OPTIONS]

{rows}

  vitrail COMMAND --help         its flags, with examples
  vitrail train --help all       every key of a recipe
  vitrail --version
  --debug                        show the traceback of an error
  --module NAME                  import a Python module of yours

a first run:  vitrail train --data mini
"""


def print_error(what: str, fix: str) -> None:
    """At most five lines on stderr: what is wrong and where, then what to do."""
    remedy = wrap(fix, "  -> ") if fix else []
    lines = truncate_lines(wrap(what, "vitrail: "), max(3, 5 - len(remedy)))
    lines += truncate_lines(remedy, 5 - len(lines)) if remedy else []
    sys.stderr.write("\n".join(lines) + "\n")


def truncate_lines(lines: list[str], count: int) -> list[str]:
    return lines if len(lines) <= count else [*lines[: count - 1], f"{lines[count - 1]} ..."]


def wrap(text: str, lead: str) -> list[str]:
    clean = printable(" ".join(text.split()))
    clean = " ".join(w if len(w) <= 4 * WIDEST else f"{w[: 2 * WIDEST]}...{w[-40:]}" for w in clean.split())
    return textwrap.wrap(clean, WIDEST, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def describe_unexpected(error: Exception) -> tuple[str, str]:
    """What and fix of an unexpected error."""
    kind, text = type(error).__name__, (str(error).splitlines() or [""])[0][:200]
    if kind == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "allocate memory" in text):
        from vitrail.cli.syntax.flags import flag_of

        size = flag_of("input", "size")
        fix = f"halve --runtime.micro-batch (same result), use a smaller {size}, or --runtime.grad-checkpoint"
        return f"out of memory: {text}", fix
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}", "run again with --debug to see where"
    return (
        f"unexpected error: {kind}: {text}",
        "run again with --debug to see where; please report it with your command",
    )
