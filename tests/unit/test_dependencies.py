"""What Luthien imports, where it is installed without the tools that it is made with."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS = {"anyio": "fastapi", "markupsafe": "jinja2", "pydantic-core": "pydantic", "starlette": "fastapi"}
"""Packages that are a part of what another one offers, in the version that it chooses."""
BY_HAND = {"xllamacpp"}
"""Only the demo imports it, where requirements-demo.txt has installed it."""


def imported() -> Iterator[str]:
    """The modules of others that any of ours imports, at its top or later."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


def package(requirement: str) -> str:
    """Its name as every registry spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def test_each_package_that_is_imported_is_declared() -> None:
    providers = packages_distributions()
    optional = PROJECT["optional-dependencies"]
    known = {package(each) for each in [*PROJECT["dependencies"], *optional["embedded"], *optional["demo"]]}
    known |= {part for part, whole in PARTS.items() if whole in known}
    packages = {name.partition(".")[0] for name in imported()} - {*sys.stdlib_module_names, *BY_HAND, "luthien"}
    assert packages >= {"grpc", "google", "requests", "prometheus_client"}
    # Python 3.14 has by itself what an older one needs a backport for.
    packages -= {"backports" if sys.version_info >= (3, 14) else "compression"}
    missing = {name for name in packages if not {package(each) for each in providers.get(name, [])} & known}
    assert missing == set()


def test_what_few_need_is_loaded_when_it_is_needed() -> None:
    told = "import sys, luthien.cli; print(*sorted({'grpc', 'prometheus_client', 'requests'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []
