"""From what `policy:` says in `luthien.yaml` to the class it means."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import BaseModel

from luthien.policies.policy import Policy

GROUP = "luthien.policies"
"""The entry points under which an installed package offers policies by name."""


class NotAPolicy(Exception):
    """What `policy:` says leads to no policy; the message says why, in words for whoever wrote it."""


def installed() -> dict[str, EntryPoint]:
    """The policies that installed packages offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find_policy(reference: str, folder: Path) -> type[Policy]:
    """The class that `file.py:Class`, `package.module:Class` or the name of an entry point means.

    A file's path is relative to `folder`. Its code is run, once for each content it has.

    Raises:
        NotAPolicy: it is not there, cannot be imported, or is no policy.
    """
    where, _, name = reference.rpartition(":")
    if not where:
        return _checked(_of_entry_point(installed()[reference]), reference)
    if not name:
        raise NotAPolicy(f"{reference!r} names no class; write {where}:MyPolicy")
    module = _of_file(folder / where) if where.endswith(".py") else _of_module(where)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        there = ", ".join(_policies_in(module)) or "none"
        raise NotAPolicy(f"there is no class {name!r} in {where}; policies there: {there}")
    return _checked(found, name)


def _of_entry_point(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - other people's code, run at start only
        _blame(f"{point.name!r} ({point.value})", error)


def _of_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - other people's code, run at start only
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise NotAPolicy(f"there is no module {error.name!r}; is its package installed here?") from None
        _blame(name, error)


def _of_file(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise NotAPolicy(f"there is no file {path}") from None
    except OSError as error:
        raise NotAPolicy(f"{path} cannot be read: {error.strerror}") from None
    name = module_name(path, source)
    if name in sys.modules:
        return sys.modules[name]
    loader = _UncachedLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    # There while it runs, as dataclasses and pydantic look up the module of a class.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - other people's code, run at start only
        sys.modules.pop(name, None)
        _blame(str(path), error, path)
    return module


def module_name(path: Path, source: bytes) -> str:
    """What the module of a policy's file is called: each content has one of its own."""
    digest = hashlib.sha256(bytes(path.resolve()) + b"\0" + source).hexdigest()[:12]
    return f"luthien_policy_{digest}"


def forget_modules(names: Iterable[str]) -> None:
    """Lets go of modules whose policies nobody needs any more."""
    for name in names:
        sys.modules.pop(name, None)


class _UncachedLoader(SourceFileLoader):
    """Leaves no bytecode beside the file, and takes none from there that may be older than the source."""

    def path_stats(self, path: Any) -> Any:
        raise OSError


def _blame(what: str, error: BaseException, path: Path | None = None) -> NoReturn:
    """Says what importing raised, and where in the file, if it was raised there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    where = f" (line {lines[-1]})" if lines else ""
    message = error.msg if isinstance(error, SyntaxError) else error
    raise NotAPolicy(f"{what} cannot be imported: {type(error).__name__}: {message}{where}") from error


def _policies_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if _is_policy(value) and value.__module__ == module.__name__]


def _is_policy(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Policy)


def _checked(value: Any, name: str) -> type[Policy]:
    if not _is_policy(value):
        kind = "a class" if inspect.isclass(value) else f"of type {type(value).__name__}"
        raise NotAPolicy(f"{name!r} is {kind} that is no policy: it must derive from luthien.policies.policy.Policy")
    policy: type[Policy] = value
    config: object = policy.Config
    if not (inspect.isclass(config) and issubclass(config, BaseModel)):
        raise NotAPolicy(f"{name}.Config must be a pydantic model")
    return policy
