"""The command `vitrail`: finds the subcommand, and turns every error into a few plain lines and an exit code."""

import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib import import_module

from vitrail.errors import UsageError, VitrailError, pick

COMMANDS = {  # name: (module, what it does)
    "train": ("train", "train a model on pictures; continue a run with --resume"),
    "eval": ("evaluate", "judge a trained model on held-out pictures"),
    "predict": ("predict", "say what is in pictures"),
    "sample": ("sample", "make pictures with a trained denoiser"),
    "check": ("check", "look a data set over before training on it"),
    "import": ("import_weights", "turn published weights into a model folder"),
    "models": ("models", "list the models, or the settings of one"),
    "cost": ("cost", "parameters, multiply-adds and memory of a model"),
    "report": ("report", "write the page that tells a run"),
    "look": ("look", "show what a model looks at, and how it is made inside"),
    "compare": ("compare", "set runs side by side"),
    "probe": ("probe", "judge the frozen features of a model: linear probe and neighbours"),
    "tune-lr": ("tune_lr", "find a learning rate by a range test, without touching a run"),
    "study": ("study", "experiments that show what a part of training does"),
    "doctor": ("doctor", "find out what is wrong with this machine, or with a run"),
}
LONGEST = 96  # columns of an error line


def main(words: list[str]) -> int:
    """Runs the command that `words` say and returns its exit code: 0, 1 run, 2 usage, 3 data, 4 checkpoint, 130/143 signals."""
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark, not a traceback
    try:
        code = dispatch(words) or 0
        sys.stdout.flush()
        return code
    except VitrailError as error:
        if debug:
            traceback.print_exc()
        tell(error.what, error.fix)
        return error.code
    except KeyboardInterrupt:
        tell("stopped", "")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever was reading has gone; that is no error
        return 0
    except SystemExit as leave:  # tyro printed its help
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 2
    except Exception as error:
        if debug:
            raise
        tell(*unexpected(error))
        return 1


def dispatch(words: list[str]) -> int | None:
    if words[:1] == ["help"] and words[1:]:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        from vitrail.version import __version__

        sys.stdout.write(f"vitrail {__version__}\n")
        return 0
    if words[0].startswith("--tyro-"):
        return completion(words)
    option = words[0].startswith("-")
    if option and (later := [w for w in words if w in COMMANDS]):
        raise UsageError(f"the command comes first, then {words[0]}", f"vitrail {later[0]} {words[0]} ...")
    known = ("--help", "--version", "--debug") if option else tuple(COMMANDS)
    name = pick(words[0], known, "option" if option else "command", "vitrail --help lists all commands")
    return command(name)(words[1:])


def command(name: str) -> Callable[[list[str]], int | None]:
    module = import_module(f"vitrail.cli.{COMMANDS[name][0]}")
    return getattr(module, {"eval": "evaluate", "import": "bring", "tune-lr": "tune_lr"}.get(name, name))


def overview() -> str:
    rows = "\n".join(f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items())
    return f"""usage: vitrail COMMAND ...

Vision Transformers from pixels to a report.

{rows}

  vitrail COMMAND --help         every option with its default
  vitrail --version
  --debug                        show the traceback of an error

a first run:  vitrail train --data mini
"""


def completion(words: list[str]) -> int:
    """Shell completion: `vitrail --tyro-print-completion bash` (or zsh, tcsh) prints the script."""
    import tyro

    parsers = {name: import_module(f"vitrail.cli.{module}").ARGUMENTS[name] for name, (module, _) in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(parsers, args=words, prog="vitrail")
    return 0


def tell(what: str, fix: str) -> None:
    """At most five lines on stderr: what is wrong and where, then what to do."""
    lines = first(wrapped(what, "vitrail: "), 3)
    lines += first(wrapped(fix, "  -> "), 5 - len(lines)) if fix else []
    sys.stderr.write("\n".join(lines) + "\n")


def first(lines: list[str], count: int) -> list[str]:
    return lines if len(lines) <= count else [*lines[: count - 1], f"{lines[count - 1]} ..."]


def wrapped(text: str, lead: str) -> list[str]:
    clean = "".join(ch if ch.isprintable() else " " for ch in text)
    clean = " ".join(w if len(w) <= 4 * LONGEST else f"{w[: 2 * LONGEST]}...{w[-40:]}" for w in clean.split())
    return textwrap.wrap(clean, LONGEST, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def unexpected(error: Exception) -> tuple[str, str]:
    """An error that nobody foresaw, said as well as can be."""
    kind, text = type(error).__name__, (str(error).splitlines() or [""])[0][:200]
    if kind == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "allocate memory" in text):
        return f"out of memory: {text}", "halve --machine.micro (same result), use a smaller --input.size, or --machine.grad-checkpoint"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}", "run again with --debug to see where"
    return f"something unforeseen: {kind}: {text}", "run again with --debug to see where; please report it with what you typed"
