"""Settings: read from the environment alone, refused in words, and every one of them documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from luthien.errors import ConfigError
from luthien.settings import Settings, check_propagators, from_environment, read_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
UNITS = {
    "_bytes": "bytes",
    "_s": "seconds",
    "_ms": "milliseconds",
    "_records": "records",
    "_connections": "connections",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is set."""
    for name in os.environ:
        if name.upper().startswith(("LUTHIEN_", "OTEL_", "DATABASE_URL")):
            monkeypatch.delenv(name)
    return monkeypatch


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable that a field is read from."""
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return f"LUTHIEN_{name.upper()}"


FIELDS = {variable(name, field): (name, field) for name, field in Settings.model_fields.items()}


def documented() -> dict[str, list[str]]:
    """The rows of the tables of settings: variable, default, unit and meaning. `A_{B,C}_D` are two variables."""
    rows: dict[str, list[str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.fullmatch(r"`([A-Z0-9_]*)(?:{([A-Z,]+)})?([A-Z0-9_]*)`", cells[0])
        if name and len(cells) == 4:
            for part in (name[2] or "").split(","):
                variable = name[1] + part + name[3]
                assert variable not in rows, f"{variable} is documented twice"
                rows[variable] = cells[1:]
    return rows


class TestEnvironment:
    def test_an_empty_environment_gives_the_defaults(self) -> None:
        settings = read_settings()
        assert (settings.host, settings.port, settings.config) == ("127.0.0.1", 8080, Path("luthien.yaml"))
        assert settings.trusted_networks == (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
        assert settings.database_url is None
        assert not settings.exports_traces
        assert not settings.exports_metrics

    @pytest.mark.parametrize(
        ("name", "text", "field", "value"),
        [
            ("LUTHIEN_HOST", "0.0.0.0", "host", "0.0.0.0"),
            ("LUTHIEN_PORT", "0", "port", 0),
            ("luthien_port", "9", "port", 9),
            ("LUTHIEN_CONFIG", "/etc/luthien.yaml", "config", Path("/etc/luthien.yaml")),
            ("LUTHIEN_RECORD", "off", "record", False),
            ("LUTHIEN_READ_TIMEOUT_S", "1.5", "read_timeout_s", 1.5),
            ("LUTHIEN_BATCH_MAX_AGE_MS", "0", "batch_max_age_ms", 0.0),
            ("LUTHIEN_LOG_FORMAT", "text", "log_format", "text"),
            ("LUTHIEN_KEEP", "30d", "keep", timedelta(days=30)),
            ("LUTHIEN_KEEP", "2w", "keep", timedelta(days=14)),
            ("LUTHIEN_KEEP", " 48h ", "keep", timedelta(days=2)),
            ("LUTHIEN_TRUSTED_NETWORKS", "10.0.0.0/8, ::1", "trusted_networks", (
                IPv4Network("10.0.0.0/8"), IPv6Network("::1/128"))),
            ("LUTHIEN_TRUSTED_NETWORKS", "none", "trusted_networks", ()),
            ("LUTHIEN_LOG_CALLS", "all", "log_calls", "all"),
            ("LUTHIEN_EXPORT_LOGGERS", "my.policies, httpx", "export_loggers", ("my.policies", "httpx")),
            ("OTEL_LOGS_EXPORTER", "console", "logs_exporter", "console"),
            ("DATABASE_URL", "postgresql://u:p@h/d", "database_url", SecretStr("postgresql://u:p@h/d")),
            ("OTEL_SERVICE_NAME", "mine", "service_name", "mine"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.1", "traces_sampler_arg", "0.1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "5", "otlp_timeout", 5.0),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "otlp_traces_protocol", "grpc"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "true", "otlp_insecure", True),
        ],
    )  # fmt: skip
    def test_a_variable_sets_its_field(
        self, environment: pytest.MonkeyPatch, name: str, text: str, field: str, value: Any
    ) -> None:
        environment.setenv(name, text)
        assert getattr(read_settings(), field) == value

    @pytest.mark.parametrize("name", FIELDS)
    def test_an_empty_variable_is_as_if_it_were_not_set(self, environment: pytest.MonkeyPatch, name: str) -> None:
        environment.setenv(name, "")
        assert read_settings() == Settings()

    @pytest.mark.parametrize("name", FIELDS)
    def test_every_field_can_be_given_by_name_as_well(self, name: str) -> None:
        """As the commands do with their options."""
        field = FIELDS[name][0]
        value = getattr(read_settings(), field)
        assert getattr(Settings(**{field: value}), field) == value

    def test_a_name_without_the_prefix_sets_nothing(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PORT", "9")
        environment.setenv("DEBUG_TOKEN", "x")
        settings = read_settings()
        assert (settings.port, settings.debug_token) == (8080, None)

    def test_unknown_variables_are_others_business(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("LUTHIEN_NOVELTY", "1")
        assert read_settings() == Settings()

    def test_what_was_read_does_not_change(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            read_settings().port = 1  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("variables", "traces", "metrics"),
        [
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True, False),
            ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, False, True),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False, True),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, True, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "prometheus"}, True, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "console , otlp"}, True, True),
        ],
    )
    def test_what_has_an_endpoint_and_is_not_turned_off_is_exported(
        self, environment: pytest.MonkeyPatch, variables: dict[str, str], traces: bool, metrics: bool
    ) -> None:
        for name, value in variables.items():
            environment.setenv(name, value)
        settings = read_settings()
        assert (settings.exports_traces, settings.exports_metrics) == (traces, metrics)

    @pytest.mark.parametrize(
        ("variables", "logs"),
        [
            ({}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
            ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c:4318/v1/logs"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_LOGS_EXPORTER": "none"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_LOGS_EXPORTER": "console"}, False),
        ],
    )
    def test_logs_are_exported_as_the_other_signals_are(
        self, environment: pytest.MonkeyPatch, variables: dict[str, str], logs: bool
    ) -> None:
        for name, value in variables.items():
            environment.setenv(name, value)
        assert read_settings().exports_logs is logs


class TestSecretsInFiles:
    @pytest.mark.parametrize(
        "name", [name for name, (_, field) in FIELDS.items() if "SecretStr" in str(field.annotation)]
    )
    def test_every_secret_may_be_in_a_file(self, environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        (tmp_path / "secret").write_text("  key=s3cret\n")
        environment.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        assert getattr(read_settings(), FIELDS[name][0]) == SecretStr("key=s3cret")

    def test_what_is_no_secret_may_not(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "port").write_text("9")
        environment.setenv("LUTHIEN_PORT_FILE", str(tmp_path / "port"))
        assert read_settings().port == 8080

    def test_those_that_the_configuration_names_may_be_too(
        self, environment: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "key").write_text("sk-1\n")
        environment.setenv("SOME_PROVIDERS_KEY_FILE", str(tmp_path / "key"))
        assert from_environment("SOME_PROVIDERS_KEY") == "sk-1"
        assert from_environment("ANOTHER_KEY") is None

    @pytest.mark.parametrize(
        ("contents", "also", "message"),
        [
            (None, "", "LUTHIEN_DEBUG_TOKEN_FILE: cannot read .*secret: No such file"),
            (b" \n", "", "LUTHIEN_DEBUG_TOKEN_FILE: .*secret is empty"),
            (b"\xff\xfe", "", "LUTHIEN_DEBUG_TOKEN_FILE: cannot read .*secret: it is not text"),
            (b"x" * 65_537, "", "LUTHIEN_DEBUG_TOKEN_FILE: cannot read .*secret: it is too long for a secret"),
            (b"one\ntwo\n", "", "LUTHIEN_DEBUG_TOKEN_FILE: .*secret is not one secret"),
            (b"one\0", "", "LUTHIEN_DEBUG_TOKEN_FILE: .*secret is not one secret"),
            (b"one", "another", "LUTHIEN_DEBUG_TOKEN and LUTHIEN_DEBUG_TOKEN_FILE are both set"),
        ],
    )
    def test_a_file_that_is_not_one_secret_is_refused(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, contents: bytes | None, also: str, message: str
    ) -> None:
        if contents is not None:
            (tmp_path / "secret").write_bytes(contents)
        environment.setenv("LUTHIEN_DEBUG_TOKEN_FILE", str(tmp_path / "secret"))
        environment.setenv("LUTHIEN_DEBUG_TOKEN", also)
        with pytest.raises(ConfigError, match=message):
            read_settings()

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_what_is_no_file_is_refused_and_not_waited_for(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None]
    ) -> None:
        make(tmp_path / "secret")
        environment.setenv("LUTHIEN_DEBUG_TOKEN_FILE", str(tmp_path / "secret"))
        with pytest.raises(
            ConfigError, match=r"LUTHIEN_DEBUG_TOKEN_FILE: cannot read .*secret: (it is not|Is a dir)"
        ):
            read_settings()

    def test_the_mark_that_some_editors_put_first_is_no_part_of_it(
        self, environment: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfs3cret\r\n")
        environment.setenv("LUTHIEN_DEBUG_TOKEN_FILE", str(tmp_path / "secret"))
        assert read_settings().debug_token == SecretStr("s3cret")


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("LUTHIEN_PORT", "http", "valid integer"),
            ("LUTHIEN_PORT", "65536", "less than or equal to 65535"),
            ("LUTHIEN_MAX_BODY_BYTES", "0", "greater than 0"),
            ("LUTHIEN_GRACE_S", "-1", "greater than 0"),
            ("LUTHIEN_BATCH_MAX_AGE_MS", "-1", "greater than or equal to 0"),
            ("LUTHIEN_RECORD", "perhaps", "valid boolean"),
            ("LUTHIEN_LOG_FORMAT", "xml", "json|text"),
            ("LUTHIEN_LOG_CALLS", "some", "unusual|all|none"),
            ("OTEL_LOGS_EXPORTER", "syslog", "otlp, console; or none"),
            ("LUTHIEN_TRUSTED_NETWORKS", "localhost", "valid IPv4 network"),
            ("LUTHIEN_KEEP", "12h", "one or more whole days"),
            ("LUTHIEN_KEEP", "36h", "one or more whole days"),
            ("LUTHIEN_KEEP", "10001d", "at most 10000 days"),
            ("LUTHIEN_KEEP", "0d", "one or more whole days"),
            ("LUTHIEN_KEEP", "-1d", "a number of days, as in 30d"),
            ("LUTHIEN_KEEP", "30", "a number of days, as in 30d"),
            (
                "OTEL_METRICS_EXPORTER",
                "zipkin",
                "must be a list, separated by commas, of otlp, prometheus, console; or",
            ),
            ("OTEL_METRICS_EXPORTER", "none,otlp", "or none"),
            ("OTEL_TRACES_EXPORTER", "prometheus", "must be a list, separated by commas, of otlp, console; or none"),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "-1", "greater than or equal to 0"),
        ],
    )
    def test_a_wrong_value_is_refused_with_the_name_of_its_variable(
        self, environment: pytest.MonkeyPatch, name: str, text: str, message: str
    ) -> None:
        environment.setenv(name, text)
        with pytest.raises(ConfigError, match=f"these settings are wrong:\n  {name}: .*{re.escape(message)}"):
            read_settings()

    def test_every_wrong_value_is_named_at_once(self, environment: pytest.MonkeyPatch) -> None:
        for name in ("LUTHIEN_PORT", "LUTHIEN_RECORD", "LUTHIEN_GRACE_S"):
            environment.setenv(name, "x")
        with pytest.raises(ConfigError) as raised:
            read_settings()
        assert re.findall(r"^  (\w+):", str(raised.value), re.MULTILINE) == [
            "LUTHIEN_PORT",
            "LUTHIEN_GRACE_S",
            "LUTHIEN_RECORD",
        ]

    def test_the_values_are_not_repeated(self, environment: pytest.MonkeyPatch) -> None:
        """A secret may stand in the wrong variable."""
        environment.setenv("LUTHIEN_PORT", "sk-secret")
        with pytest.raises(ConfigError) as raised:
            read_settings()
        assert "sk-secret" not in str(raised.value)

    @pytest.mark.parametrize("name", ["LUTHIEN_DEBUG_TOKEN", "DATABASE_URL"])
    def test_a_secret_is_not_shown(self, environment: pytest.MonkeyPatch, name: str) -> None:
        environment.setenv(name, "sk-secret")
        assert "sk-secret" not in repr(read_settings())


class TestDocumentation:
    def test_every_setting_and_nothing_else_is_documented(self) -> None:
        assert sorted(documented()) == sorted(FIELDS)

    @pytest.mark.parametrize("name", FIELDS)
    def test_its_default_is_the_real_one(self, name: str) -> None:
        default = FIELDS[name][1].default
        cell = documented()[name][0]
        if isinstance(default, bool):
            assert cell == f"`{str(default).lower()}`"
        elif isinstance(default, (str, int, float, Path)):
            assert cell == f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        elif isinstance(default, tuple) and default:
            assert cell == f"`{','.join(map(str, default))}`"
        else:  # none, or worked out at the start: said in words
            assert cell

    @pytest.mark.parametrize("name", FIELDS)
    def test_its_unit_is_that_of_its_name(self, name: str) -> None:
        field = FIELDS[name][0]
        unit = next((unit for suffix, unit in UNITS.items() if field.endswith(suffix)), None)
        cell = documented()[name][1]
        assert cell == unit if unit else cell

    @pytest.mark.parametrize("name", FIELDS)
    def test_its_meaning_is_said(self, name: str) -> None:
        assert len(documented()[name][2]) > 10


class TestPropagators:
    """OpenTelemetry looks for them when it is imported, before anything could be said of it in words."""

    def test_what_is_not_installed_ends_a_command_in_words(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("OTEL_PROPAGATORS", "tracecontext,b3odd")
        ended = subprocess.run(
            [sys.executable, "-m", "luthien", "--help"], capture_output=True, text=True, timeout=60
        )
        assert ended.stderr.startswith("luthien: these settings are wrong:\n  OTEL_PROPAGATORS: 'b3odd' is none of ")
        assert "Traceback" not in ended.stderr
        assert ended.returncode == 1

    @pytest.mark.parametrize(
        ("said", "package"),
        [
            ("b3", "opentelemetry-propagator-b3"),
            ("tracecontext,b3multi", "opentelemetry-propagator-b3"),
            ("jaeger", "opentelemetry-propagator-jaeger"),
        ],
    )
    def test_what_would_have_to_be_installed_is_said(
        self, environment: pytest.MonkeyPatch, said: str, package: str
    ) -> None:
        environment.setenv("OTEL_PROPAGATORS", said)
        with pytest.raises(ConfigError, match=f"none; install {package}$"):
            check_propagators()

    @pytest.mark.parametrize("said", ["", "none", "tracecontext, baggage", "tracecontext , NONE,b3odd"])
    def test_what_is_installed_is_taken(self, environment: pytest.MonkeyPatch, said: str) -> None:
        environment.setenv("OTEL_PROPAGATORS", said)
        check_propagators()

    @pytest.mark.parametrize("said", [" ", "tracecontext,", "b3odd,none", "TraceContext"])
    def test_what_opentelemetry_does_not_take_is_refused(self, environment: pytest.MonkeyPatch, said: str) -> None:
        environment.setenv("OTEL_PROPAGATORS", said)
        with pytest.raises(ConfigError, match=r"is none of baggage, .*tracecontext, none$"):
            check_propagators()
