"""The examples of docs/keys.md and docs/policies.md are configurations, and mean what is said there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthien.config_file import ConfigFile
from luthien.gateway.configuration import configured

DOCS = Path(__file__).parents[3] / "docs"


def example(document: str, heading: str) -> str:
    section = (DOCS / document).read_text(encoding="utf-8").partition(heading)[2]
    found = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_keys_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LUTHIEN_KEY_TEAM_A", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, f"the-secret-of-{variable}")
    text = example("keys.md", "# Gateway keys") + example("policies.md", "## Groups")
    configuration = configured(ConfigFile("luthien.yaml", text))
    keyring, groups = configuration.keyring, configuration.groups
    assert [key.name for key in keyring.keys] == ["team-a", "laptop"]
    assert not keyring.accepts_provider_keys
    assert configuration.warnings == []

    def policies(model: str, route: str, key: str | None) -> tuple[str | None, list[str]]:
        group = groups.of(model, route, key)
        return group.name, [step.name for step in group.chain.steps]

    assert policies("gpt-4o-mini", "/v1/messages", "team-a") == ("trusted-team", [])
    assert policies("o3", "/v1/messages", "team-a") == ("agents", ["redact", "block_tools"])
    assert policies("o3", "/v1/responses", "laptop") == (None, ["redact"])
