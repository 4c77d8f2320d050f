"""The configuration of the stack, read strictly."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OTEL = ROOT / "otel"
SCHEMAS = Path(__file__).parent / "schemas"


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML lets pass: a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def parsed(text: str) -> Any:
    """The one document of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or a key is there twice.
    """
    return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader


def read(path: Path) -> Any:
    return parsed(path.read_text())


def merged(first: Any, second: Any) -> Any:
    """Two configurations as the Collector merges them: maps by key, all else replaced."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    return first | {key: merged(first[key], value) if key in first else value for key, value in second.items()}


def collector(*names: str) -> dict[str, Any]:
    """The Collector's configuration as it is after the expansion of `$$`; no other variable is used."""
    found: Any = {}
    for name in names:
        text = (OTEL / name).read_text()
        assert "$" not in text.replace("$$", ""), f"{name} wants something from the environment"
        found = merged(found, parsed(text.replace("$$", "$")))
    return found  # type: ignore[no-any-return]


VARIANTS = {
    "plain": ("collector.yaml",),
    "sampling": ("collector.yaml", "collector.sampling.yaml"),
}
