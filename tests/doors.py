"""Under pytest every call into layers, heads and models is held to its annotations: kinds of arguments and shapes.

`install` must run before the library is imported. Nothing is checked while torch traces a program (compile, export):
then the functions are as they are without this file. Nor is it where multiply-adds are counted or the device is chosen
by a context, since torch then calls Python for every shape that a check looks at, which took most of those tests' time.
"""

import functools
import importlib.machinery
import sys
from types import FunctionType, ModuleType

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

ROOMS = ("vitrail.layers", "vitrail.heads", "vitrail.models")
CONF = BeartypeConf(is_pep484_tower=True)  # where a float is wanted, an int will do


def install() -> None:
    from vitrail import shapes

    for name in shapes.__all__:
        setattr(shapes, name, getattr(jaxtyping, name))
    sys.meta_path.insert(0, Finder())


class Finder:
    """Finds files as Python does, and has those of the rooms checked."""

    def find_spec(self, name, path=None, target=None):
        if not name.startswith(tuple(f"{room}." for room in ROOMS)):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        check(module)


def check(module: ModuleType) -> None:
    """Puts a checking function in the place of every function and method that a module defines."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            setattr(module, name, checked(value))
        elif isinstance(value, type):
            for part, method in list(vars(value).items()):
                if isinstance(method, FunctionType) and method.__module__ == module.__name__ and method.__annotations__:
                    setattr(value, part, checked(method))


def checked(function: FunctionType) -> FunctionType:
    strict = jaxtyping.jaxtyped(typechecker=beartype(conf=CONF))(function)
    seen = set()  # a check takes as long as a small layer: calls that look alike are checked once

    @functools.wraps(function)
    def door(*args, **kwargs):
        if torch.compiler.is_compiling() or torch._C._len_torch_function_stack():
            return function(*args, **kwargs)
        key = (*map(looks, args), *map(looks, kwargs.items()))
        if key in seen:
            return function(*args, **kwargs)
        result = strict(*args, **kwargs)
        seen.add(key)
        return result

    return door


def looks(value: object) -> object:
    """All that a check can see of a value: shapes, kinds, whole numbers and words."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind, tuple(map(looks, value))
    if isinstance(value, torch.Tensor):
        return kind, value.shape, value.dtype
    return value if kind is int or kind is str else kind
