"""The laws of the house as checks of the source text, by `ast` alone: each gives the places that break it.

`python tests/house.py [FOLDER [LAW]]` counts them, for a package in FOLDER, by default this one's, and lists those of a
law, such as 4.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

FLOORS = [  # lowest first; a file imports floors below it, or its own room where that closes no circle
    {"errors", "version"},
    {"types", "shapes"},
    {"validation", "foreign_names"},
    {"layers", "storage", "data"},
    {"recipe"},
    {"facts"},
    {"contracts"},
    {"catalog", "heads", "metrics"},
    {"models", "datasets"},
    {"engine", "analysis"},
    {"tasks", "weights"},
    {"assembly"},
    {"inference"},
    {"evaluation"},
    {"export", "serve"},
    {"training"},
    {"studies"},
    {"report"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {room: i for i, floor in enumerate(FLOORS) for room in floor}

FIRST_ABOVE_TASKS = LEVEL["assembly"]

CATALOGUED = {  # law 3: what a file on a catalogued floor has at its top level
    "models": {"Config", "VARIANTS", "build"},
    "datasets": {"Config", "matches", "build"},
    "tasks": {"Config", "build"},
    "studies": {"Config", "build", "run"},
}
CATALOGUES = {*CATALOGUED, "weights/tables"}  # law 3: the folder is the registry, so it grows with what there is
PAPERS = {"models"}  # rooms whose files name their paper: somebody and a year
FRONT_DOOR = {"create", "backbone", "train", "export"}  # the one place where keywords name config fields

LONGEST_FILE, WIDEST_LINE, MOST_ARGUMENTS, MOST_FILES, MOST_IMPORTS = 300, 120, 8, 20, 15
LONGEST_FUNCTION = {"training/loop.py": 60}  # the page that is the run
USUAL_FUNCTION = 50

ASKED = {  # law 4: hasattr, and getattr with a default, that ask something foreign; at most 10, each with its reason
    "getattr(error, 'strerror', None)": "of the errors of opening a path only OSError has it",
    "hasattr(value, 'item')": "numbers of numpy or torch, of which neither may be imported here",
    "getattr(value, 'ndim', 1)": "likewise",
    "getattr(image, 'n_frames', 1)": "Pillow has it on the formats that can hold several",
}
KINDS = {  # what a task learns from, names of tasks, kinds of models: nobody above the tasks compares with them
    "classes", "masks", "boxes", "captions", "latents", "denoiser", "denoisers",
    "classification", "segmentation", "detection", "distillation", "diffusion", "contrastive", "self_distillation",
    "masked_autoencoding", "joint_embedding",
}  # fmt: skip
ASKING = {"generates", "denoises", "ranks"}  # functions and properties that tell what kind a thing is

WORDS = {  # law 12: word, or words side by side, that no name has: what it is called instead
    "told": "condition, result",
    "tell": "describe",
    "said": "prediction, message",
    "judge": "evaluate",
    "judged": "evaluated",
    "judges": "evaluates",
    "judging": "evaluation",
    "judgement": "evaluation",
    "judgements": "evaluations",
    "hire": "build_teacher",
    "hired": "build_teacher",
    "lay_up": "cache_latents",
    "laid_up": "with_cached_latents",
    "thaw": "unfreeze",
    "thaws": "unfreeze",
    "thawed": "unfrozen",
    "wave": "unfreeze stage",
    "waves": "unfreeze stages",
    "wish": "request",
    "wishes": "requests",
    "wished": "requested",
    "brought": "imported",
    "bring": "import",
    "shelf": "latent cache",
    "moments": "snapshot steps",
    "standing": "early-stopping state",
    "described": "model bundle",
    "viewer": "windowed predictor",
    "stranger": "library model",
    "taught": "is_distilled",
    "found_bad": "nonfinite error",
    "untouched": "identity collate",
    "quiet": "init worker",
    "looking": "cross attention",
    "freeze_idle": "freeze_unused_parameters",
    "truth": "annotation",
    "truths": "annotations",
    "picture": "image",
    "pictures": "images",
    "rate": "lr",
    "rates": "lrs",
}
FIELD_WORDS = {  # the same letters where they are the field's own word: (word, beginning of the path): why
    ("waves", "layers/"): "sinusoidal encodings",
    ("wave", "layers/"): "sinusoidal encodings",
    ("moments", "engine/lamb.py"): "Adam's first and second moments",
    ("rate", "layers/drop.py"): "drop rate",
    ("rates", "layers/drop.py"): "drop rates",
    ("rate", "models/"): "drop rate",
    ("rates", "models/"): "drop rates",
    ("quiet", "cli/"): "the flag --quiet",
}
NAMES = {  # law 12: whole names of functions, classes, methods and constants
    "Found": "DetectionOutput",
    "Objects": "DetectionTargets",
    "usual": "mean_objects",
    "Piece": "MicroBatch",
    "together": "sync_gradients",
    "Places": "PositionTerms",
    "NOWHERE": "NO_POSITION_TERMS",
    "Seen": "VisiblePairs",
    "Known": "RunData",
    "known": "resolve_autoencoder",
    "weigh": "fit_class_weights",
    "ranks": "a property of Task",
    "generates": "a property of Task",
    "denoises": "a property of Task",
    "as_it_was": "reopen_dataset",
    "pick": "choose",
    "place": "as_path",
    "plain": "as_plain",
    "sized": "with_square_size",
    "World.total": "all_reduce_sum",
    "World.share": "broadcast",
    "World.agree": "assert_equal_across_ranks",
    "World.once": "on_rank_zero",
}


class Place(NamedTuple):
    """Where a law is broken, and how."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class File:
    """A source file of the package, read once."""

    root: Path
    path: Path

    @cached_property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @cached_property
    def room(self) -> str:
        return self.name.removesuffix(".py").split("/")[0]

    @cached_property
    def module(self) -> str:
        return ".".join(("vitrail", *self.name.removesuffix(".py").split("/"))).removesuffix(".__init__")

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [n for n in self.nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]

    def at(self, node: ast.AST | int, what: str) -> Place:
        return Place(self.name, node if isinstance(node, int) else getattr(node, "lineno", 1), what)


class House:
    """A package: its files, and what they import of it."""

    def __init__(self, root: Path):
        self.root = root
        self.files = [File(root, path) for path in sorted(root.rglob("*.py"))]
        self.modules = {file.module: file for file in self.files}

    def imports(self, file: File) -> list[tuple[int, str]]:
        """Every module a file imports, early or late; `from vitrail.data import decode` names vitrail.data.decode."""
        found = [(n.lineno, a.name) for n in file.nodes if isinstance(n, ast.Import) for a in n.names]
        for n in file.nodes:
            if isinstance(n, ast.ImportFrom):
                whole = "." * n.level + (n.module or "")
                parts = [f"{whole}.{a.name}" for a in n.names if f"{whole}.{a.name}" in self.modules]
                found += [(n.lineno, name) for name in parts or [whole]]
        return found

    def own(self, file: File) -> set[str]:
        """The package's own modules that a file imports."""
        return {name for _, name in self.imports(file) if name.split(".")[0] == "vitrail"} - {file.module}


def down_only(house: House) -> Iterator[Place]:
    """Law 1: imports go down."""
    for file in house.files:
        here = LEVEL.get(file.room)
        if here is None:
            yield file.at(1, f"{file.room} stands on no floor")
        for line, name in house.imports(file):
            if name.startswith("."):
                yield file.at(line, f"{name} is relative: imports are absolute")
            elif name.split(".")[0] == "vitrail":
                room = (name.split(".") + ["__init__"])[1]
                if room != file.room and not LEVEL.get(room, len(FLOORS)) < (here or 0):
                    yield file.at(line, f"{file.room} may not import {name}: it is not below")


def no_circles(house: House) -> Iterator[Place]:
    """Law 1: no circle among files."""
    edges = {f.module: {n for n in house.own(f) if n in house.modules} for f in house.files}
    done: set[str] = set()
    while ready := {name for name, needs in edges.items() if name not in done and needs <= done}:
        done |= ready
    for name in sorted(edges.keys() - done):
        yield house.modules[name].at(1, f"in, or above, a circle with {sorted(edges[name] - done)}")


def catalogued(house: House) -> Iterator[Place]:
    """Law 3: a file of a catalogued room has its parts, a frozen Config, and says what paper it follows."""
    for file in house.files:
        parts = file.name.split("/")
        wanted = CATALOGUED.get(parts[0])
        if (
            wanted is None
            or len(parts) > 3
            or parts[1].startswith("_")
            or (len(parts) == 3 and parts[2] != "__init__.py")
        ):
            continue
        named = {name for node in file.tree.body for name in top_names(node)}
        for missing in sorted(wanted - named):
            yield file.at(1, f"has no {missing}")
        for config in (n for n in file.tree.body if isinstance(n, ast.ClassDef) and n.name == "Config"):
            if not any("frozen=True" in ast.unparse(d) for d in config.decorator_list):
                yield file.at(config, "Config is a frozen dataclass")
        if parts[0] in PAPERS and not re.search(
            r"[A-Z]\w+.*\b(19|20)\d\d\b", ast.get_docstring(file.tree) or "", re.DOTALL
        ):
            yield file.at(1, "the docstring names no paper")


def top_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return [a.asname or a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []


def attributes_asked(house: House) -> Iterator[Place]:
    """Law 4: no `hasattr`, and no `getattr` with a default, but for `ASKED`."""
    for file in house.files:
        for n in file.nodes:
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name):
                asks = n.func.id == "hasattr" or (n.func.id == "getattr" and len(n.args) == 3)
                if asks and ast.unparse(n) not in ASKED:
                    yield file.at(n, ast.unparse(n))


def overridden(house: House) -> Iterator[Place]:
    """Law 4: a method of one of our classes is abstract or final."""
    classes = {(f.module, n.name): (f, n) for f in house.files for n in f.tree.body if isinstance(n, ast.ClassDef)}
    names = {f.module: imported_names(f) for f in house.files}

    def bases(file: File, node: ast.ClassDef) -> Iterator[tuple[File, ast.ClassDef]]:
        for base in node.bases:
            text = ast.unparse(base).split("[")[0]
            first, _, rest = text.partition(".")
            where = names[file.module].get(first, f"{file.module}.{first}") + (f".{rest}" if rest else "")
            if found := classes.get(tuple(where.rsplit(".", 1))):  # type: ignore[call-overload]
                yield found
                yield from bases(*found)

    for file, node in classes.values():
        for f in methods(node):
            for other, above in bases(file, node):
                if any(g.name == f.name and concrete(g) for g in methods(above)):
                    yield file.at(
                        f, f"{node.name}.{f.name} overrides {above.name}.{f.name} ({other.name}), which is not abstract"
                    )
                    break


def imported_names(file: File) -> dict[str, str]:
    found = {
        a.asname or a.name: f"{n.module}.{a.name}" for n in file.nodes if isinstance(n, ast.ImportFrom) for a in n.names
    }
    return found | {a.asname: a.name for n in file.nodes if isinstance(n, ast.Import) for a in n.names if a.asname}


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [
        n
        for n in node.body
        if isinstance(n, ast.FunctionDef) and n.name not in ("__init__", "__post_init__", "extra_repr")
    ]


def concrete(method: ast.FunctionDef) -> bool:
    if any("abstract" in ast.unparse(d) or "overload" in ast.unparse(d) for d in method.decorator_list):
        return False
    body = [n for n in method.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return bool(body)  # a docstring or dots alone: a Protocol's


def kinds_compared(house: House) -> Iterator[Place]:
    """Law 4: above the tasks nobody compares with the name of a kind, or asks which kind a task or model is.

    As a search, in any room:
    git grep -nE '(==|!=|\\bin) *\\(?"(classes|masks|boxes|denoiser|classification|segmentation|detection|'\\
    'distillation|diffusion)"|\\b(generates|denoises|ranks)\\(|\\.generates\\b|catalog\\.kind\\(' -- vitrail
    """
    for file in house.files:
        if LEVEL.get(file.room, 0) < FIRST_ABOVE_TASKS and file.room not in ("engine", "analysis"):
            continue
        for n in file.nodes:
            if isinstance(n, ast.Compare) and not (isinstance(n.left, ast.Name) and n.left.id in ("key", "name")):
                if kinds_in(n.left) | {k for c in n.comparators for k in kinds_in(c)}:
                    yield file.at(n, ast.unparse(n))
            elif isinstance(n, ast.MatchValue) and kinds_in(n.value):
                yield file.at(n, ast.unparse(n.value))
            elif asks_kind(n):
                yield file.at(n, ast.unparse(n))


def asks_kind(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ASKING
    return isinstance(node, ast.Attribute) and node.attr in ASKING and not isinstance(node.ctx, ast.Store)


def kinds_in(node: ast.expr) -> set[str]:
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)} & KINDS


def hidden_arguments(house: House) -> Iterator[Place]:
    """Law 5: no `**kwargs` but at the front door."""
    for file in house.files:
        for f in file.functions:
            if f.args.kwarg is not None and not (file.name == "__init__.py" and f.name in FRONT_DOOR):
                yield file.at(f, f"{f.name} hides its arguments in **{f.args.kwarg.arg}")


def global_state(house: House) -> Iterator[Place]:
    """Law 5: no global statement, and nothing happens on import."""
    fine = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    )
    for file in house.files:
        for node in file.tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
            if not (isinstance(node, fine) or docstring or guard):
                yield file.at(node, "does something when the file is imported")
        for n in file.nodes:
            if isinstance(n, ast.Global):
                yield file.at(n, ast.unparse(n))


def long_files(house: House) -> Iterator[Place]:
    """Law 6: a file says what it is for, and is short."""
    for file in house.files:
        if not ast.get_docstring(file.tree):
            yield file.at(1, "a file says in its first line what it is for")
        if (lines := file.text.count("\n")) > LONGEST_FILE:
            yield file.at(1, f"{lines} lines: split it")


def wide_lines(house: House) -> Iterator[Place]:
    """Law 6: lines of at most 120 columns."""
    for file in house.files:
        for i, line in enumerate(file.text.splitlines(), start=1):
            if len(line) > WIDEST_LINE:
                yield file.at(i, f"{len(line)} columns")


def long_functions(house: House) -> Iterator[Place]:
    """Law 6: functions of at most 50 lines."""
    for file in house.files:
        for f in file.functions:
            lines = (f.end_lineno or 0) - f.lineno + 1
            if lines > LONGEST_FUNCTION.get(file.name, USUAL_FUNCTION):
                yield file.at(f, f"{f.name} has {lines} lines")


def many_arguments(house: House) -> Iterator[Place]:
    """Law 6: at most 8 parameters."""
    for file in house.files:
        for f in file.functions:
            given = [a for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs if a.arg not in ("self", "cls")]
            if len(given) > MOST_ARGUMENTS:
                yield file.at(f, f"{f.name} takes {len(given)} arguments")


def crowded_folders(house: House) -> Iterator[Place]:
    """Law 6: at most 20 files flat in a folder, its __init__.py not counted; a catalogue has a file for each entry."""
    for folder, count in flat(house).items():
        if count > MOST_FILES and folder not in CATALOGUES:
            yield Place(folder, 1, f"{count} files")


def flat(house: House) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in house.files:
        if file.path.name != "__init__.py":
            folder = file.path.parent.relative_to(house.root).as_posix()
            found[folder] = found.get(folder, 0) + 1
    return found


def wide_imports(house: House) -> Iterator[Place]:
    """Law 6: a file imports at most 15 of our own modules."""
    for file in house.files:
        if (count := len(house.own(file))) > MOST_IMPORTS:
            yield file.at(1, f"imports {count} modules")


def parameters_by_name(house: House) -> Iterator[Place]:
    """Law 8: what decays, learns or is frozen is not found by letters in the names of parameters."""
    for file in house.files:
        if file.room not in ("engine", "training", "run", "assembly", "tasks", "heads"):
            continue
        for scope in file.functions:
            names = {name for n in ast.walk(scope) for name in looped_names(n)}
            for n in ast.walk(scope):
                sides = [n.left, *n.comparators] if isinstance(n, ast.Compare) else []
                if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in SPELLING:
                    sides = [n.func.value, ast.Constant("")]
                spelt = any(isinstance(side, ast.Name) and side.id in names for side in sides)
                if spelt and any(isinstance(side, ast.Constant | ast.Tuple) for side in sides):
                    yield file.at(n, ast.unparse(n))


SPELLING = {"endswith", "startswith", "split", "rsplit", "partition", "find", "count", "index"}


def looped_names(node: ast.AST) -> list[str]:
    """The variable that holds the name in a loop over named parameters."""
    if not isinstance(node, ast.For | ast.comprehension) or "named_parameters" not in ast.unparse(node.iter):
        return []
    first = node.target.elts[0] if isinstance(node.target, ast.Tuple) else node.target
    return [first.id] if isinstance(first, ast.Name) else []


def foreign_words(house: House) -> Iterator[Place]:
    """Law 12: no name has a word for which the field has another (`WORDS`, `NAMES`)."""
    for file in house.files:
        for part in file.name.removesuffix(".py").split("/")[-1:]:
            for word in words_in(part, file.name):
                yield file.at(1, f"the file's name: {word} is {WORDS[word]}")
        for line, name in sorted({(line, name) for node in file.nodes for line, name in defined(node)}):
            for word in words_in(name, file.name):
                yield file.at(line, f"{name}: {word} is {WORDS[word]}")
        for name, line in whole_names(file.tree):
            if name in NAMES:
                yield file.at(line, f"{name} is {NAMES[name]}")


def words_in(name: str, file: str) -> list[str]:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    parts = [p for p in snake.split("_") if p]
    there = {*parts, *(f"{a}_{b}" for a, b in pairwise(parts))} & WORDS.keys()
    return sorted(w for w in there if not any(w == word and file.startswith(path) for word, path in FIELD_WORDS))


def defined(node: ast.AST) -> list[tuple[int, str]]:
    """The names that a node makes: of functions, classes, arguments, variables, attributes, aliases."""
    line = getattr(node, "lineno", 1)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [(line, node.name)]
    if isinstance(node, ast.arg):
        return [(line, node.arg)]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [(line, node.id)]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [(line, node.attr)]
    if isinstance(node, ast.alias) and node.asname:
        return [(line, node.asname)]
    return [(line, node.name)] if isinstance(node, ast.ExceptHandler) and node.name else []


def whole_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        for name in top_names(node) if not isinstance(node, ast.ImportFrom) else ():
            yield name, node.lineno
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                for name in top_names(part):
                    yield name, part.lineno
                    yield f"{node.name}.{name}", part.lineno


LAWS = {
    "1 imports go down only": down_only,
    "1 no circles": no_circles,
    "3 catalogued files": catalogued,
    "4 hasattr, getattr with a default": attributes_asked,
    "4 overriding": overridden,
    "4 comparisons with a kind": kinds_compared,
    "5 **kwargs": hidden_arguments,
    "5 nothing on import, no globals": global_state,
    "6 files": long_files,
    "6 columns": wide_lines,
    "6 functions": long_functions,
    "6 parameters": many_arguments,
    "6 files flat in a folder": crowded_folders,
    "6 own modules imported": wide_imports,
    "8 parameters by their names": parameters_by_name,
    "12 words": foreign_words,
}


def main(root: Path, shown: str) -> None:
    house = House(root)
    for law, check in LAWS.items():
        places = list(check(house))
        print(f"{len(places):5}  {law}")
        for place in places if law.startswith(shown or "-") else ():
            print(f"         {place}")
    print(f"{max(flat(house).values()):5}  files in the fullest folder")
    print(f"{max(len(house.own(f)) for f in house.files):5}  own modules that the widest file imports")
    print(f"{max(len(line) for f in house.files for line in f.text.splitlines()):5}  columns of the widest line")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "vitrail", "".join(sys.argv[2:]))
