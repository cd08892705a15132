"""Options read from source code: fields of dataclasses with type, default and comment; nothing is imported."""

import ast
import io
import re
import tokenize
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.catalog import parse_source

NUMBERS = {"int": "INT", "float": "FLOAT", "str": "TEXT", "Path": "PATH", "bool": ""}
NOT_LITERAL = object()


class Option(NamedTuple):
    name: str  # of the field
    kind: str  # of its value: "INT", "FLOAT FLOAT", "{pad,random}"; "" for a switch
    default: str  # as text; "" where there is none to print
    about: str
    positional: str = ""  # the name of an argument that has no flag

    @property
    def flag(self) -> str:
        return self.name.rstrip("_").replace("_", "-")


class Module(NamedTuple):
    name: str
    tree: ast.Module
    lines: list[str]

    def find_class(self, name: str) -> ast.ClassDef | None:
        return next((n for n in self.tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)

    def find_value(self, name: str) -> ast.expr | None:
        """The value assigned to a name at the top of the module."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return node.value
        return None

    def find_import(self, name: str) -> tuple[str, str] | None:
        """Module and name that a name of this module was imported from."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return node.module, alias.name
        return None


def read_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


class Sources:
    """Modules by name, each read and parsed once."""

    def __init__(self) -> None:
        self.modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        if name not in self.modules:
            try:
                file = find_file(name)
                self.modules[name] = Module(name, parse_source(file), read_lines(file)) if file else None
            except (ImportError, OSError, SyntaxError, ValueError):
                self.modules[name] = None
        return self.modules[name]

    def options(self, name: str, cls: str = "Config", variant: str = "") -> list[Option]:
        """The fields of a dataclass in a module. `variant`: the entry of its VARIANTS whose values are the defaults."""
        module = self.module(name)
        node = module.find_class(cls) if module else None
        if module is None:
            return []
        if node is None:  # another module's dataclass, such as deit's Config, which is vit's
            origin = module.find_import(cls)
            options = self.options(*origin) if origin else []
            names = [option.name for option in options]
        else:
            options = [self.option(module, node, i) for i, n in enumerate(node.body) if isinstance(n, ast.AnnAssign)]
            names = [option.name for option in options]
        changes = read_variant(module, variant, names)
        return [o._replace(default=changes.get(o.name, o.default)) for o in options]

    def option(self, module: Module, node: ast.ClassDef, index: int) -> Option:
        field = node.body[index]
        assert isinstance(field, ast.AnnAssign)
        after = node.body[index + 1] if index + 1 < len(node.body) else None
        about = read_text_below(after) or read_comment(module, field)
        default, about = split_default(field.value, about)
        annotation = ast.unparse(field.annotation)
        metavar = re.search(r"metavar='([^']*)'", annotation)
        positional = metavar[1] if metavar and "Positional" in annotation else ""
        kind = metavar[1] if metavar and not positional else self.kind(module, field.annotation)
        name = re.search(r"arg\(name='([^']*)'", annotation)
        return Option(name[1] if name else ast.unparse(field.target), kind, default, about, positional)

    def kind(self, module: Module, node: ast.expr) -> str:
        """How a value of an annotated type is written on the command line."""
        match node:
            case ast.Constant(value=None):
                return ""
            case ast.BinOp(op=ast.BitOr()):
                return "|".join(
                    dict.fromkeys(k for k in (self.kind(module, node.left), self.kind(module, node.right)) if k)
                )
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[first, *_])):
                return self.kind(module, first)
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return "{" + ",".join(str(ast.literal_eval(v)) for v in values if ast.literal_eval(v) != "") + "}"
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[first, ast.Constant(value=e)])) if (
                e is ...
            ):
                return f"{self.kind(module, first)} ..."
            case ast.Subscript(value=ast.Name(id="tuple"), slice=inner):
                return " ".join(self.kind(module, e) for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner]))
            case ast.Name(id=name) if name in NUMBERS:
                return NUMBERS[name]
            case ast.Name(id=name) if (value := module.find_value(name)) is not None:
                return self.kind(module, value)
            case ast.Name(id=name) if origin := module.find_import(name):
                return self.imported_kind(*origin)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if origin := module.find_import(owner):
                return self.imported_kind(f"{origin[0]}.{origin[1]}", name)
        return "VALUE"

    def imported_kind(self, module: str, name: str) -> str:
        source = self.module(module)
        value = source.find_value(name) if source else None
        if source is None or value is None:
            origin = source.find_import(name) if source else None
            return self.imported_kind(*origin) if origin else "VALUE"
        return self.kind(source, value)


def find_file(module: str) -> Path | None:
    """The source file of a module; None where there is none. The packages above it are not imported either."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None or not parts:
        return Path(spec.origin) if spec and spec.origin else None
    path = Path(spec.origin).parent.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def read_variant(module: Module, variant: str, names: list[str]) -> dict[str, str]:
    """Values of an entry of a module's table VARIANTS, which replace the defaults."""
    variants = module.find_value("VARIANTS")
    if not isinstance(variants, ast.Dict):
        return {}
    for key, value in zip(variants.keys, variants.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == variant:
            return {name: format_default(node) for name, node in read_call(module, value, names).items()}
    return {}


def read_call(module: Module, value: ast.expr | None, names: list[str]) -> dict[str, ast.expr]:
    """The fields that `Config(...)`, or `replace(OTHER, ...)` of one that has a name in the module, says."""
    if not isinstance(value, ast.Call):
        return {}
    given = {k.arg: k.value for k in value.keywords if k.arg}
    if ast.unparse(value.func).endswith("replace") and isinstance(value.args[0], ast.Name):
        return {**read_call(module, module.find_value(value.args[0].id), names), **given}
    return {**dict(zip(names, value.args, strict=False)), **given}


def read_text_below(node: ast.stmt | None) -> str:
    """The text below a field."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return " ".join(text.split()) if isinstance(text, str) else ""


def read_comment(module: Module, field: ast.AnnAssign) -> str:
    """The comments behind a field, on any of its lines."""
    text = "\n".join(module.lines[field.lineno - 1 : field.end_lineno]).strip()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = (
        token.string.lstrip("# ").removesuffix("fmt: skip") for token in tokens if token.type == tokenize.COMMENT
    )
    return " ".join(" ".join(comments).split())


def split_default(value: ast.expr | None, about: str) -> tuple[str, str]:
    """The default as text, and the comment without the part that gives it ("None: measured", "empty: 0.8 0.2")."""
    constant = literal(value)
    word = "None" if constant is None and value is not None else "empty" if constant in ("", ()) else ""
    if word and (match := re.search(rf"(?:^|;\s*){word}: ([^;]+)", about)):
        return match[1].strip(), re.sub(r"^;\s*", "", about.replace(match[0], "", 1))
    return format_default(value), about


def format_default(value: ast.expr | None) -> str:
    """A default as it is typed; "None" for None, "" for an empty value or a call."""
    constant = literal(value)
    if constant is NOT_LITERAL:
        return "" if value is None or isinstance(value, ast.Call) else ast.unparse(value)
    return format_literal(constant)


def format_literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return " ".join(map(format_literal, value))
    return str(value)


def literal(value: ast.expr | None) -> Any:
    try:
        return NOT_LITERAL if value is None else ast.literal_eval(value)
    except ValueError:
        return NOT_LITERAL
