"""`luthien.yaml`: what it says is taken, and every mistake in it is named with its line and key."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.config import PUBLIC_UPSTREAMS, Config, PolicyConfig
from luthien.config_file import ConfigFile, read_config
from luthien.errors import ConfigError
from luthien.open_paths import DEFAULT_OPEN


def config_of(text: str) -> Config:
    return ConfigFile("luthien.yaml", dedent(text)).config


def mistakes(text: str) -> list[str]:
    """What is wrong with the text, each as `line: key: message`."""
    with pytest.raises(ConfigError) as raised:
        ConfigFile("luthien.yaml", dedent(text))
    first, *lines = str(raised.value).splitlines()
    assert first == "the configuration has mistakes:"
    assert all(line.startswith("  luthien.yaml:") for line in lines)
    return [line.removeprefix("  luthien.yaml:") for line in lines]


class TestTaken:
    @pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n", "null", "{}", "\ufeff", "policies: []"])
    def test_nothing_said_means_the_public_providers_and_no_policy(self, text: str) -> None:
        config = config_of(text)
        assert config == Config()
        assert config.policies == ()
        assert {name: config.upstream_url(name) for name in PUBLIC_UPSTREAMS} == PUBLIC_UPSTREAMS

    def test_upstreams_and_policies_are_taken_as_they_are_said(self) -> None:
        config = config_of(
            """
            upstreams:
              openai: {url: "http://127.0.0.1:8000/v1"}
            policies:
              - policy: noop
              - policy: replace_text
                config: {rules: [{find: a, replace: b}]}
            """
        )
        assert config.upstream_url("openai") == "http://127.0.0.1:8000"
        assert config.upstream_url("anthropic") == PUBLIC_UPSTREAMS["anthropic"]
        assert config.policies == (
            PolicyConfig(policy="noop"),
            PolicyConfig(policy="replace_text", config={"rules": [{"find": "a", "replace": "b"}]}),
        )

    @pytest.mark.parametrize(
        ("url", "base"),
        [
            ("https://api.openai.com", "https://api.openai.com"),
            ("https://api.openai.com/", "https://api.openai.com"),
            ("https://api.openai.com/v1", "https://api.openai.com"),
            ("https://api.openai.com/v1/", "https://api.openai.com"),
            ("http://[::1]:80/openai/v1", "http://[::1]:80/openai"),
            ("HTTP://host/v11", "HTTP://host/v11"),
        ],
    )
    def test_an_address_may_be_given_with_or_without_what_its_sdk_wants(self, url: str, base: str) -> None:
        assert config_of(f"upstreams: {{openai: {{url: '{url}'}}}}").upstream_url("openai") == base

    def test_anchors_and_merged_keys_mean_what_they_mean_in_yaml(self) -> None:
        config = config_of(
            """
            policies:
              - &first
                policy: noop
                config: &settings {a: &a [1], b: *a}
              - *first
              - policy: other
                config: {<<: *settings, b: 2}
            """
        )
        assert config.policies[0] == config.policies[1] == PolicyConfig(policy="noop", config={"a": [1], "b": [1]})
        assert config.policies[2].config == {"a": [1], "b": 2}

    def test_the_same_key_may_stand_in_different_places(self) -> None:
        text = "policies: [{policy: a, config: {policy: {policy: 1}}}, {policy: b}]"
        assert [entry.policy for entry in config_of(text).policies] == ["a", "b"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "mistake"),
        [
            ("hello", "1: the file: must be a mapping"),
            ("- policies", "1: the file: must be a mapping"),
            ("false", "1: the file: must be a mapping"),
            ("policies: null", "1: policies: must be a list"),
            ("\npolicies:\n", "2: policies: must be a list"),
            ("policies: noop", "1: policies: must be a list"),
            ("policies:\n  policy: noop", "1: policies: must be a list"),
            ("policies:\n- noop", "2: policies[0]: must be a mapping"),
            ("policies:\n-\n", "2: policies[0]: must be a mapping"),
            ("policies:\n- config: {}", "2: policies[0].policy: is missing"),
            ("policies:\n- policy: 1", "2: policies[0].policy: must be text"),
            ("policies:\n- policy: yes", "2: policies[0].policy: must be text"),
            ("policies:\n- policy: a\n  config:", "3: policies[0].config: must be a mapping"),
            ("policies:\n- policy: a\n  config: [a]", "3: policies[0].config: must be a mapping"),
            ("policies:\n- policy: a\n  extra: 1", "3: policies[0].extra: no such key"),
            ("upstreams:", "1: upstreams: must be a mapping"),
            ("upstreams: [openai]", "1: upstreams: must be a mapping"),
            ("upstreams:\n  openai: http://h", "2: upstreams.openai: must be a mapping"),
            ("upstreams:\n  openai: {}", "2: upstreams.openai.url: is missing"),
            ("upstreams:\n  openai:\n    url: 1", "3: upstreams.openai.url: must be text"),
            (
                "upstreams:\n\n  azure: {url: 'http://h'}",
                "3: upstreams.azure: no such provider; known are anthropic, openai",
            ),
            ("policy: []", "1: policy: no such key"),
        ],
    )
    def test_a_wrong_shape_is_named_with_line_and_key(self, text: str, mistake: str) -> None:
        assert mistakes(text) == [mistake]

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("ftp://h", "must be an http:// or https:// address"),
            ("h:80", "must be an http:// or https:// address"),
            ("http://", "must be an http:// or https:// address"),
            ("http://a b", "must be an http:// or https:// address"),
            (" http://h", "must be an http:// or https:// address"),
            ("http://h:0", "must be an http:// or https:// address"),
            ("http://h:99999", "port out of range 0-65535"),
            ("http://[::1", "invalid IPv6 URL"),
            ("http://u@h", "must have no query, fragment or credentials"),
            ("http://:p@h", "must have no query, fragment or credentials"),
            ("http://h?key=1", "must have no query, fragment or credentials"),
            ("http://h#f", "must have no query, fragment or credentials"),
        ],
    )
    def test_an_address_that_cannot_be_called_is_refused(self, url: str, message: str) -> None:
        assert mistakes(f"upstreams: {{openai: {{url: '{url}'}}}}") == [f"1: upstreams.openai.url: {message}"]

    def test_several_are_named_at_once_in_the_order_of_the_file(self) -> None:
        assert mistakes(
            """\
            upstreams:
              openai:
                url: ftp://h
                key: secret
              azure: {url: http://h}
            policies:
              - {}
              - policy: a
                config: 1
            nonsense: 1
            nonsense: 2
            """
        ) == [
            "3: upstreams.openai.url: must be an http:// or https:// address",
            "4: upstreams.openai.key: no such key",
            "7: policies[0].policy: is missing",
            "9: policies[1].config: must be a mapping",
            "10: nonsense: no such key",
            "11: nonsense: given twice",
        ]

    @pytest.mark.parametrize(
        ("text", "mistake"),
        [
            ("policies: []\npolicies: []", "2: policies: given twice"),
            (
                "upstreams:\n  openai: {url: http://h}\n  openai: {url: http://h}",
                "3: upstreams.openai: given twice",
            ),
            (
                "policies:\n- policy: a\n  config:\n    x: [{y: 1,\n      y: 2}]",
                "5: policies[0].config.x[0].y: given twice",
            ),
            ("policies:\n- {policy: a, policy: a}", "2: policies[0].policy: given twice"),
            ("policies: [{policy: a, config: {a: 1, 'a': 2}}]", "1: policies[0].config.a: given twice"),
        ],
    )
    def test_a_key_given_twice_is_a_mistake_at_any_depth(self, text: str, mistake: str) -> None:
        """YAML itself would take the last one without a word."""
        assert mistakes(text) == [mistake]

    @pytest.mark.parametrize("key", ["1", "1.5", "yes", "on", "null", "~", "2024-01-01", "0x10"])
    def test_a_key_that_yaml_does_not_read_as_text_is_a_mistake(self, key: str) -> None:
        text = "policies:\n- policy: a\n  config:\n    {}: 1\n"
        assert mistakes(text.format(key)) == [f"4: policies[0].config.{key}: keys must be text; put it in quotes"]
        assert config_of(text.format(f"'{key}'")).policies[0].config == {key: 1}

    @pytest.mark.parametrize("key", ["1", "yes", "null"])
    def test_so_it_is_at_the_top_and_among_the_upstreams(self, key: str) -> None:
        assert mistakes(f"{key}: 1") == [f"1: {key}: keys must be text; put it in quotes"]
        assert mistakes(f"upstreams:\n  {key}: {{url: 'http://h'}}") == [
            f"2: upstreams.{key}: keys must be text; put it in quotes"
        ]

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("policies:\n\t- policy: a", 2, r"found character '\t' that cannot start any token"),
            ("policies: [", 1, "expected the node content, but found '<stream end>'"),
            ("a: b: c", 1, "mapping values are not allowed here"),
            ("policies: []\n---\npolicies: []", 2, "but found another document"),
            ("policies: []\nb: *a", 2, "found undefined alias 'a'"),
            ("b: !!python/object/apply:os.system [ls]", 1, "could not determine a constructor for the tag"),
            ("x: 1\ny: 2024-13-45", 2, "month must be in 1..12"),
            ("y: !!int x", 1, "invalid literal for int() with base 10: 'x'"),
            ("a: 1\nb: \x00", 2, "the character U+0000"),
            ("{[a]: b}", 1, "found unhashable key"),
        ],
    )
    def test_what_is_not_yaml_is_refused_with_its_line(self, text: str, line: int, message: str) -> None:
        assert any(mistake.startswith(f"{line}: not YAML: {message}") for mistake in mistakes(text))

    def test_an_alias_to_what_it_is_part_of_ends(self) -> None:
        assert mistakes("policies: &a\n- *a") == ["1: policies[0]: must be a mapping"]

    def test_aliases_that_multiply_cost_no_more_than_they_are(self) -> None:
        lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
        assert mistakes("\n".join(lines)) == sorted(
            (f"{n + 1}: a{n}: no such key" for n in range(30)), key=lambda line: int(line.split(":")[0])
        )

    def test_a_mistake_that_an_alias_repeats_is_named_in_the_line_where_it_was_made(self) -> None:
        text = "policies:\n- &a {policy: x, extra: 1}\n- *a"
        assert mistakes(text) == ["2: policies[0].extra: no such key", "2: policies[1].extra: no such key"]

    def test_nesting_beyond_reason_is_refused(self) -> None:
        assert mistakes("[" * 5000) == ["1: nested too deeply to be read"]

    @given(st.text("abc:-[]{}&*!|>'\"#%@` \n\t,?~\x00\x85", max_size=40))
    def test_no_text_raises_anything_but_its_mistakes(self, text: str) -> None:
        try:
            config = ConfigFile("luthien.yaml", text).config
        except ConfigError as error:
            assert "luthien.yaml:" in str(error)
        else:
            assert isinstance(config, Config)


class TestReading:
    def test_a_file_that_is_not_there_says_nothing_unless_it_was_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "luthien.yaml"
        assert read_config(path).config == Config()
        with pytest.raises(ConfigError, match=f"there is no {path}; create it, or unset LUTHIEN_CONFIG"):
            read_config(path, must_exist=True)

    def test_mistakes_are_named_with_the_path_of_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "luthien.yaml"
        path.write_text("a: 1\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=f"\n  {path}:1: a: no such key"):
            read_config(path)

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"{tmp_path} cannot be read"):
            read_config(tmp_path)
        path = tmp_path / "luthien.yaml"
        path.write_bytes(b"policies: \xff")
        with pytest.raises(ConfigError, match=f"{path} cannot be read"):
            read_config(path)


class TestPassthrough:
    def test_a_list_replaces_the_default(self) -> None:
        assert config_of("").passthrough == DEFAULT_OPEN
        assert config_of("passthrough: []").passthrough == ()
        assert config_of("passthrough: [POST /v1/files]").passthrough == ("POST /v1/files",)

    def test_mistakes_have_line_and_key(self) -> None:
        found = mistakes(
            """
            passthrough:
              - GET /v1/models
              - models
              - POST /v1/chat/*
              - 7
            """
        )
        assert [line[:17] for line in found] == [f"{row}: passthrough[{at}]" for row, at in ((4, 1), (5, 2), (6, 3))]
