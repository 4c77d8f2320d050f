"""Which group a call belongs to, and every mistake that can be made in saying so."""

from __future__ import annotations

from textwrap import dedent

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.gateway.configuration import configured
from luthien.policies.groups import DEFAULT, load_groups

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
KEYS = f"""
keys:
  - name: team-a
    key: {{sha256: "{"ab" * 32}"}}
  - name: team-b
    key: {{sha256: "{"cd" * 32}"}}
"""

HOOK = "url: 'http://127.0.0.1:1/'"


def group_of(match: str, model: str | None, route: str = CHAT, key: str | None = None) -> str | None:
    """The group of a call, of one that is called `it` and the default one, which has no name."""
    file = ConfigFile("l", f"groups: [{{name: it, match: {match}, policies: []}}]{KEYS}")
    return load_groups(file).of(model, route, key).name


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        configured(ConfigFile("l", dedent(text)))
    return [line.removeprefix("  l:") for line in str(raised.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("match", "model", "route", "key", "holds"),
    [
        ("{}", None, CHAT, None, True),
        ("{models: [gpt-4o*]}", "gpt-4o-mini", CHAT, None, True),
        ("{models: [gpt-4o]}", "gpt-4o-mini", CHAT, None, False),
        ("{models: [gpt-4o*]}", "my-gpt-4o", CHAT, None, False),
        ("{models: [gpt-4o*]}", "GPT-4o", CHAT, None, False),
        ("{models: [a, 'b?']}", "b1", CHAT, None, True),
        ("{models: ['*']}", None, CHAT, None, False),
        ("{models: [a.c]}", "abc", CHAT, None, False),
        ("{routes: [/v1/messages]}", "m", MESSAGES, None, True),
        ("{routes: [/v1/messages]}", "m", CHAT, None, False),
        ("{keys: [team-a]}", "m", CHAT, "team-a", True),
        ("{keys: [team-a]}", "m", CHAT, "team-b", False),
        ("{keys: [team-a]}", "m", CHAT, None, False),
        ("{models: [m], routes: [/v1/messages], keys: [team-a]}", "m", MESSAGES, "team-a", True),
        ("{models: [m], routes: [/v1/messages], keys: [team-a]}", "x", MESSAGES, "team-a", False),
        ("{models: [m], routes: [/v1/messages], keys: [team-a]}", "m", RESPONSES, "team-a", False),
        ("{models: [m], routes: [/v1/messages], keys: [team-a]}", "m", MESSAGES, "team-b", False),
    ],
)
def test_all_conditions_that_are_given_must_hold(
    match: str, model: str | None, route: str, key: str | None, holds: bool
) -> None:
    assert group_of(match, model, route, key) == ("it" if holds else None)


def test_the_first_group_that_matches_takes_the_call() -> None:
    groups = load_groups(
        ConfigFile(
            "l",
            dedent("""
            groups:
              - {name: mini, match: {models: ["*mini*"]}, policies: []}
              - {name: gpt, match: {models: ["gpt*"]}, policies: []}
            """),
        )
    )
    assert [groups.of(model, CHAT, None).name for model in ("gpt-mini", "gpt", "o3-mini", "o3")] == [
        *("mini", "gpt", "mini", None)
    ]


def test_a_group_uses_the_lists_of_others_where_it_says_so() -> None:
    groups = load_groups(
        ConfigFile(
            "l",
            dedent("""
            policies: [{policy: noop}]
            groups:
              - {name: one, match: {}, policies: [{policy: add_system_message, config: {text: a}}, {use: default}]}
              - {name: two, match: {}, policies: [{use: one}, {policy: noop, mode: shadow}]}
              - {name: none, match: {}, policies: []}
            """),
        )
    )
    assert {group.name: [step.name for step in group.chain.steps] for group in groups.named} == {
        "one": ["add_system_message", "noop"],
        "two": ["add_system_message", "noop", "noop"],
        "none": [],
    }
    assert groups.named[1].chain.steps[1] is groups.default.chain.steps[0]


def test_every_mistake_has_its_line_and_key() -> None:
    text = """\
    policies:
      - policy: nonsense
    groups:
      - name: default
        match: {keys: [team-a, team-c]}
        policies: [{use: later}, {policy: noop, config: {a: 1}}]
      - name: later
        match:
          routes: [/v1/messages, /v1/embeddings]
        policies:
          - use: default
      - name: later
        match: {}
        policies: []
    """
    routes = ", ".join((CHAT, RESPONSES, MESSAGES))
    found = mistakes(dedent(text) + KEYS)
    assert found[0].startswith("2: policies[0].policy: there is no policy 'nonsense'; known are")
    assert found[1:] == [
        f"4: groups[0].name: {DEFAULT!r} means the policies of calls that no group takes",
        "5: groups[0].match.keys[1]: there is no key 'team-c'; known are team-a, team-b",
        "6: groups[0].policies[0].use: there is no group 'later' before this one; there are default",
        "6: groups[0].policies[1].config.a: no such key",
        f"9: groups[1].match.routes[1]: policies do not look at '/v1/embeddings'; they look at {routes}",
        "12: groups[2].name: 'later' is taken",
    ]


def test_the_shape_of_a_group_is_checked() -> None:
    assert mistakes(
        """\
        groups:
          - name: a b
            match: {models: [], routes: x}
            policies: [{}, {policy: noop, use: default}, {use: default, mode: shadow}]
          - match: {model: [x]}
        """
    ) == [
        "2: groups[0].name: must be up to 64 letters, digits, dots, dashes and underscores",
        "3: groups[0].match.models: must not be empty",
        "3: groups[0].match.routes: must be a list",
        *(f"4: groups[0].policies[{at}]: must have `policy`, or `use` alone" for at in range(3)),
        "5: groups[1].match.model: no such key",
        "5: groups[1].name: is missing",
        "5: groups[1].policies: is missing",
    ]


@pytest.mark.parametrize(
    ("earlier", "later", "takes_all"),
    [
        ("{}", "{models: [a]}", True),
        ("{}", "{}", True),
        ("{models: [a]}", "{}", False),
        ("{models: ['*']}", "{}", False),
        ("{models: ['gpt-*']}", "{models: ['gpt-4*', 'gpt-?']}", True),
        ("{models: ['gpt-4*']}", "{models: ['gpt-*']}", False),
        ("{models: ['gpt-?']}", "{models: ['gpt-*']}", False),
        ("{models: ['gpt-?']}", "{models: ['gpt-?']}", True),
        ("{routes: [/v1/messages]}", "{routes: [/v1/messages], models: [a]}", True),
        ("{routes: [/v1/messages]}", "{models: [a]}", False),
        (f"{{routes: [{CHAT}, {RESPONSES}, {MESSAGES}]}}", "{models: [a]}", True),
        ("{keys: [team-a]}", "{keys: [team-a], models: [a]}", True),
        ("{keys: [team-a, team-b]}", "{}", False),
        ("{keys: [team-a], models: [a]}", "{keys: [team-a]}", False),
    ],
)
def test_a_group_that_can_never_match_is_warned_of(earlier: str, later: str, takes_all: bool) -> None:
    entries = f"{{name: one, match: {earlier}, policies: []}}, {{name: two, match: {later}, policies: []}}"
    warnings = configured(ConfigFile("l", f"groups: [{entries}]{KEYS}")).warnings
    expected = ["the group 'two' never matches: 'one', before it, takes all of its calls"]
    assert warnings == (expected if takes_all else [])


def test_very_many_groups_are_compared_in_time() -> None:
    """Each pair costs a look, and no expression is compiled for it: that took minutes."""
    groups = ", ".join(
        f"{{name: g{number}, match: {{models: [m{number}-*]}}, policies: []}}" for number in range(1500)
    )
    assert configured(
        ConfigFile("l", f"groups: [{groups}, {{name: last, match: {{models: [m7-x]}}, policies: []}}]")
    ).warnings == ["the group 'last' never matches: 'g7', before it, takes all of its calls"]


@pytest.mark.parametrize(
    ("policies", "notes"),
    [
        ("{policy: noop}", []),
        ("{policy: block_tools, config: {rules: [{tool: '*'}]}}", []),
        (f"{{policy: webhook, config: {{{HOOK}, sides: [request]}}}}", []),
        (f"{{policy: webhook, mode: shadow, config: {{{HOOK}}}}}", []),
        (f"{{policy: webhook, config: {{{HOOK}}}}}", ["webhook"]),
        (f"{{policy: webhook, config: {{{HOOK}, sides: [response]}}}}, {{policy: noop}}", ["webhook"]),
    ],
)
def test_what_holds_streams_until_they_are_whole_is_said_once(policies: str, notes: list[str]) -> None:
    text = f"policies: [{policies}]\ngroups: [{{name: one, match: {{}}, policies: [{policies}]}}]"
    expected = [f"{name}: streams are held until they are whole, with keep-alives meanwhile" for name in notes]
    assert configured(ConfigFile("l", text)).notes == expected
