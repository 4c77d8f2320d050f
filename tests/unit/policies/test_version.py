"""The version that the record has of a policy: which code counts, and which does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from luthien.policies import version
from luthien.policies.builtin import noop, redact
from luthien.policies.builtin.redaction import patterns
from luthien.policies.policy import Policy
from luthien.policies.registry import make_step
from luthien.policies.version import modules_of

POLICY = """
from luthien.policies.policy import Policy
from .tables import TABLE
class Mine(Policy):
    pass
"""
FILES = {
    "__init__": "",
    "policy": POLICY,
    "tables": "import json\nfrom . import deep\nTABLE = [1]\n",
    "deep": "from . import policy\ntry:\n    from . import tried\nexcept ImportError:\n    pass\n",
    "tried": "WORD = 1\n",
    "apart": "WORD = 1\n",
}

pytestmark = pytest.mark.usefixtures("fresh_modules")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def policy_of(folder: Path, package: str, changed: Mapping[str, str] | None = None) -> type[Policy]:
    """The policy of a new package, some of whose modules are other ones."""
    (folder / package).mkdir()
    for name, text in {**FILES, **(changed or {})}.items():
        (folder / package / f"{name}.py").write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    importlib.import_module(f"{package}.apart")
    policy: type[Policy] = importlib.import_module(f"{package}.policy").Mine
    return policy


def recorded(policy: type[Policy]) -> str:
    return make_step("mine", policy, None).version


@pytest.mark.parametrize("name", ["policy", "tables", "deep", "tried", "__init__"])
def test_what_a_policy_uses_of_its_package_counts(folder: Path, name: str) -> None:
    changed = policy_of(folder, "changed", {name: FILES[name] + "MORE = 1\n"})
    assert recorded(changed) != recorded(policy_of(folder, "unchanged"))


def test_what_it_does_not_use_does_not_count_nor_what_the_package_is_called(folder: Path) -> None:
    changed = policy_of(folder, "changed", {"apart": "WORD = 2\n"})
    assert recorded(changed) == recorded(policy_of(folder, "unchanged"))


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .apart import WORD\n",
        "import typing\nif typing.TYPE_CHECKING:\n    from .apart import WORD\n",
        "def later():\n    from .apart import WORD\n",
    ],
)
def test_imports_that_may_never_be_made_are_not_followed(folder: Path, text: str) -> None:
    """Whether such a module is there depends on what else has happened in the process."""
    policy = policy_of(folder, "package", {"policy": POLICY + text})
    names = {module.__name__ for module in modules_of(sys.modules[policy.__module__])}
    assert names == {"package", *(f"package.{name}" for name in ("policy", "tables", "deep", "tried"))}


def test_the_version_is_of_the_code_that_runs(folder: Path) -> None:
    policy = policy_of(folder, "package")
    before = recorded(policy)
    (folder / "package" / "tables.py").write_text("TABLE = [2]\n", encoding="utf-8")
    assert recorded(policy) == before


def test_of_very_many_modules_the_nearest_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "MAX_MODULES", 3)
    policy = policy_of(folder, "package")
    names = [module.__name__ for module in modules_of(sys.modules[policy.__module__])]
    assert names == ["package.policy", "package.tables", "package"]


def test_redact_is_its_patterns_too() -> None:
    assert patterns in modules_of(redact)
    assert patterns not in modules_of(noop)
    assert {module.__name__.partition(".")[0] for module in modules_of(redact)} == {"luthien"}
