"""The laws of the house, checked on the source text: no torch needed, runs in a second."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "vitrail"
FLOORS = [  # lowest first; a file imports floors below it, or its own room where that closes no circle
    {"errors", "version"},
    {"checks"},
    {"types"},
    {"layers", "data"},
    {"heads", "metrics"},
    {"models", "datasets"},
    {"tasks", "weights", "analysis"},
    {"engine"},
    {"catalog"},
    {"recipe"},
    {"run"},
    {"export", "serve", "studies", "report"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {part: i for i, floor in enumerate(FLOORS) for part in floor}
CATALOGUED = {  # law 3: what a file on a catalogued floor has at its top level
    "models": {"Config", "VARIANTS", "build"},
    "datasets": {"Config", "matches", "build"},
    "tasks": {"Config", "build"},
    "studies": {"Config", "build", "run"},
}
FRONT_DOOR = {"create", "backbone"}  # the one place where keywords name config fields
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 300, 50, 8
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {".".join(("vitrail", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES}
ids = [str(p.relative_to(ROOT)) for p in FILES]


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(tree: ast.AST) -> list[str]:
    """Every module a file imports, at its top or late; `from vitrail.data import decode` names vitrail.data.decode."""
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and n.module:
            assert n.level == 0, "imports are absolute"
            submodules = [f"{n.module}.{a.name}" for a in n.names if f"{n.module}.{a.name}" in MODULES]
            names += submodules or [n.module]
    return names


def functions(tree: ast.AST):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_down_only(path):
    here = room(path)
    for name in imports(ast.parse(path.read_text())):
        if name.split(".")[0] == "vitrail":
            there = (name.split(".") + ["__init__"])[1]
            assert LEVEL[there] < LEVEL[here] or there == here, f"{here} may not import {name}: it is not below"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_file_keeps_the_budget(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file says in its first line what it is for"
    assert text.count("\n") <= LONGEST_FILE, "split it"
    for node in functions(tree):
        assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name} is too long"
        a = node.args
        given = [x for x in a.posonlyargs + a.args + a.kwonlyargs if x.arg not in ("self", "cls")]
        assert len(given) <= MOST_ARGUMENTS, f"{node.name} takes too many arguments"
        allowed = here_is_front_door(path) and node.name in FRONT_DOOR
        assert a.kwarg is None or allowed, f"{node.name} hides its arguments in **{a.kwarg and a.kwarg.arg}"


def here_is_front_door(path: Path) -> bool:
    return path == ROOT / "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_nothing_happens_on_import(path):
    """At the top level: docstring, imports, definitions, constants. No bare calls, no loops, no global statement anywhere."""
    tree = ast.parse(path.read_text())
    fine = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        assert isinstance(node, fine) or docstring or guard, f"line {node.lineno} does something when the file is imported"
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global)], "no global state"


@pytest.mark.parametrize(("floor", "wanted"), CATALOGUED.items())
def test_catalogued_files_have_their_parts(floor, wanted):
    for path in (ROOT / floor).iterdir():
        file = path if path.suffix == ".py" else path / "__init__.py"
        if path.name.startswith("__") or not file.exists():
            continue
        tree = ast.parse(file.read_text())
        named = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        named |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        named |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        named |= {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names if a.name == "Config"}
        assert wanted <= named, f"{path.name} lacks {wanted - named}"
        for config in (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config"):
            assert any("frozen=True" in ast.unparse(d) for d in config.decorator_list), f"{path.name}: Config is a frozen dataclass"


def test_no_circles_between_files():
    edges = {p: {MODULES[n] for n in imports(ast.parse(p.read_text())) if n in MODULES} - {p} for p in FILES}
    done: set[Path] = set()
    while ready := {p for p, needs in edges.items() if p not in done and needs <= done}:
        done |= ready
    assert done == set(FILES), f"circle among {sorted(str(p.relative_to(ROOT)) for p in set(FILES) - done)}"


FORBIDDEN = {"eval", "exec", "pickle", "joblib", "marshal"}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_way_to_run_code_from_a_file(path):
    tree = ast.parse(path.read_text())
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    modules = {n.split(".")[0] for n in imports(tree)}
    assert not (called | modules) & FORBIDDEN
    for n in ast.walk(tree):
        if isinstance(n, ast.keyword) and n.arg in ("shell", "trust_remote_code", "allow_pickle"):
            assert isinstance(n.value, ast.Constant)
            assert n.value.value is False
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in n.keywords)
