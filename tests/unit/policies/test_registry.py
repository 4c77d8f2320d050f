"""From the names in the configuration to a chain: the right policies, and every mistake at once."""

from __future__ import annotations

from textwrap import dedent

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.policies.builtin.add_system_message import AddSystemMessage, AddSystemMessageConfig
from luthien.policies.builtin.noop import Noop
from luthien.policies.builtin.replace_text import ReplaceText, ReplaceTextConfig
from luthien.policies.chain import Chain
from luthien.policies.policy import NoConfig, Policy
from luthien.policies.registry import BUILTIN, load_chain, make_step


def chain_of(text: str) -> Chain:
    return load_chain(ConfigFile("luthien.yaml", dedent(text)))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        chain_of(text)
    return [line.removeprefix("  luthien.yaml:") for line in str(raised.value).splitlines()[1:]]


def test_the_chain_is_in_the_order_of_the_file() -> None:
    chain = chain_of(
        """
        policies:
          - policy: noop
          - {policy: add_system_message, config: {text: Be brief.}}
          - {policy: replace_text, config: {rules: [{find: a, replace: b, in: [request]}], max_held_chars: 9}}
          - policy: noop
        """
    )
    assert [(step.name, step.policy) for step in chain.steps] == [
        ("noop", Noop),
        ("add_system_message", AddSystemMessage),
        ("replace_text", ReplaceText),
        ("noop", Noop),
    ]
    assert [step.config for step in chain.steps] == [
        NoConfig(),
        AddSystemMessageConfig(text="Be brief."),
        ReplaceTextConfig.model_validate(
            {"rules": [{"find": "a", "replace": "b", "in": ["request"]}], "max_held_chars": 9}
        ),
        NoConfig(),
    ]


def test_a_configuration_that_is_part_of_itself_is_a_mistake() -> None:
    entry = "{policy: judge, config: {model: m, question: q, credential: none, extra: &all {a: *all}}}"
    assert mistakes(f"policies: [{entry}]") == ["1: policies[0].policy: its configuration has no end"]


def test_without_policies_the_chain_is_empty() -> None:
    assert chain_of("") == chain_of("policies: []") == Chain(())


def test_every_mistake_of_every_policy_is_named_with_line_and_key() -> None:
    assert mistakes(
        """\
        policies:
          - policy: rewrite
          - policy: noop
            config:
              level: 9
          - policy: replace_text
            config:
              rules:
                - {find: a, replace: b, in: request}
                - find: "("
                  replace: b
                  regex: true
                - replace: 1
              max_held_chars: 0
          - policy: add_system_message
            config: {text: ""}
          - policy: replace_text
            config: {rules: []}
          - policy: add_system_message
        """
    ) == [
        f"2: policies[0].policy: there is no policy 'rewrite'; known are {', '.join(sorted(BUILTIN))}",
        "5: policies[1].config.level: no such key",
        "9: policies[2].config.rules[0].in: must be a list",
        "10: policies[2].config.rules[1]: not a regular expression: missing ) at position 1",
        "13: policies[2].config.rules[2].find: is missing",
        "13: policies[2].config.rules[2].replace: must be text",
        "14: policies[2].config.max_held_chars: input should be greater than 0",
        "16: policies[3].config.text: must not be empty",
        "18: policies[4].config.rules: must not be empty",
        "19: policies[5].config.text: is missing",
    ]


@pytest.mark.parametrize("key", ["find: 1, replace: x", "find: x, replace: null", "find: [x], replace: x"])
def test_a_number_is_not_taken_for_text(key: str) -> None:
    (mistake,) = mistakes(f"policies: [{{policy: replace_text, config: {{rules: [{{{key}}}]}}}}]")
    assert mistake.endswith(": must be text")


def test_the_version_tells_configurations_apart() -> None:
    text = "policies: [{{policy: add_system_message, config: {{text: {}}}}}]"
    versions = [chain_of(text.format(word)).steps[0].version for word in ("a", "b", "a")]
    assert versions[0] == versions[2] != versions[1]
    assert all(len(version) == 12 and int(version, 16) >= 0 for version in versions)


def test_the_version_does_not_depend_on_the_order_of_keys() -> None:
    text = "policies: [{{policy: replace_text, config: {{rules: [{{{}}}]}}}}]"
    first, second = (chain_of(text.format(keys)).steps[0] for keys in ("find: a, replace: b", "replace: b, find: a"))
    assert first.version == second.version


def test_the_version_tells_the_code_of_policies_apart() -> None:
    assert make_step("x", Noop, None).version != make_step("x", AddSystemMessage, None).version


def test_a_version_can_be_made_of_any_configuration() -> None:
    assert len(make_step("x", Noop, None, {"a": "\ud800", "b": {1}, "c": b"x"}).version) == 12


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_policy_can_be_a_step(name: str) -> None:
    step = make_step(name, BUILTIN[name], BUILTIN[name].Config.model_construct())
    assert step.policy is BUILTIN[name]
    assert issubclass(step.policy, Policy)
    assert any(step.overrides(hook) for hook in ("on_request", "on_response", "on_chunk"))
