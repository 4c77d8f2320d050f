"""Which code a policy is made of: a hash of its module and of what that imports from its own package.

Found in the imports at the top of each module, since the module may take a table or a compiled expression from
another, which says nothing of where it is from. Imports within functions are not followed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

MAX_MODULES = 1000
"""How many count; of a package that is larger, those that are nearest."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A module's text as it was when it was first asked for: what runs does not change with the file."""

    sha256: str
    imports: tuple[str, ...]


_known: WeakKeyDictionary[ModuleType, _Source] = WeakKeyDictionary()


def code_hash(policy: type) -> str:
    """The SHA-256 of the code of a class, in hex, whatever its package is called and wherever that lies."""
    module = sys.modules.get(policy.__module__)
    if module is None:
        return hashlib.sha256(policy.__qualname__.encode()).hexdigest()
    found = {_name_within(each): _source(each).sha256 for each in modules_of(module)}
    listed = "".join(f"{name} {digest}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


def modules_of(module: ModuleType) -> list[ModuleType]:
    """A module and those of the same top-level package that it imports, and so on: the nearest first."""
    package = module.__name__.partition(".")[0]
    found = {module.__name__: module}
    near = [module]
    while near and len(found) < MAX_MODULES:
        names = sorted({name for each in near for name in _source(each).imports} - {*found})
        loaded = [(name, sys.modules.get(name)) for name in names if name.partition(".")[0] == package]
        new = {name: each for name, each in loaded if isinstance(each, ModuleType)}
        near = [*new.values()][: MAX_MODULES - len(found)]
        found |= dict(zip(new, near, strict=False))
    return [*found.values()]


def _name_within(module: ModuleType) -> str:
    """Its name within the package: a policy's file has a module whose name says where the file is."""
    return module.__name__.partition(".")[2]


def _source(module: ModuleType) -> _Source:
    known = _known.get(module)
    if known is None:
        known = _known[module] = _read(module)
    return known


def _read(module: ModuleType) -> _Source:
    try:
        code = Path(inspect.getfile(module)).read_bytes()
    except (OSError, TypeError):
        code = b""
    try:
        imports = tuple(_imports(ast.parse(code), module))
    except (SyntaxError, ValueError, RecursionError):  # an extension, say
        imports = ()
    return _Source(hashlib.sha256(code).hexdigest(), imports)


def _imports(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    """The names of what may be modules, as they are when the module is imported."""
    for node in _run_at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                whence = resolve_name("." * node.level + (node.module or ""), module.__package__)
            except ImportError:
                continue
            yield whence
            yield from (f"{whence}.{alias.name}" for alias in node.names)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in _words(child):
            yield from _run_at_import(child)


def _words(node: ast.AST) -> set[str]:
    """The names in the condition of an `if`."""
    condition = ast.walk(node.test) if isinstance(node, ast.If) else ()
    return {
        name for each in condition if (name := getattr(each, "id", None) or getattr(each, "attr", None)) is not None
    }
