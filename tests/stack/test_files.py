"""Each file of the stack is what its program's documentation says it may be."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from luthien.telemetry.conventions import CONVENTIONS
from tests.programs import program
from tests.stack.files import OTEL, ROOT, SCHEMAS, VARIANTS, collector, merged, parsed, read

PROVISIONING = OTEL / "grafana" / "provisioning"


def programs() -> dict[str, Any]:
    """What docker-compose.yml tells the programs that are not ours."""
    services: dict[str, Any] = read(ROOT / "docker-compose.yml")["services"]
    told = ("environment", "command")
    return {
        name: {key: service[key] for key in told if key in service}
        for name, service in services.items()
        if not service["image"].startswith("luthien/")
    }


DOCUMENTS: dict[str, tuple[str, Any]] = {
    "collector": ("collector", collector("collector.yaml")),
    "collector, sampling": ("collector", collector(*VARIANTS["sampling"])),
    "tempo": ("tempo", read(OTEL / "tempo.yaml")),
    "loki": ("loki", read(OTEL / "loki.yaml")),
    "datasources": ("datasources", read(PROVISIONING / "datasources" / "datasources.yaml")),
    "dashboards": ("dashboards", read(PROVISIONING / "dashboards" / "dashboards.yaml")),
    "programs": ("programs", programs()),
}
# Of the Collector's own making.
FOREIGN = {"luthien.collector.stripped", "luthien.collector.signal", "luthien.collector.payloads"}


def validator(schema: str) -> Draft202012Validator:
    found = read(SCHEMAS / f"{schema}.yaml")
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


@pytest.mark.parametrize("path", sorted(OTEL.rglob("*.y*ml")), ids=lambda path: str(path.relative_to(OTEL)))
def test_it_is_yaml_without_a_key_that_is_there_twice(path: Path) -> None:
    assert read(path)


def test_a_key_that_is_there_twice_is_seen() -> None:
    with pytest.raises(yaml.YAMLError, match="twice"):
        parsed("a:\n  b: 1\n  b: 2\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_as_documented(name: str) -> None:
    schema, document = DOCUMENTS[name]
    assert [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(document)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_word_too_much_is_seen_wherever_it_stands(name: str) -> None:
    schema, document = DOCUMENTS[name]
    validate = validator(schema)
    unseen = [where for where, changed in with_a_word_too_much(document) if validate.is_valid(changed)]
    assert unseen == []


def with_a_word_too_much(document: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The document with one unknown key in one of its maps, for each map."""
    if isinstance(document, dict):
        yield where, {**document, "typo": 1}
        for key, value in document.items():
            for inner, changed in with_a_word_too_much(value, f"{where}/{key}"):
                yield inner, {**document, key: changed}
    if isinstance(document, list):
        for index, value in enumerate(document):
            for inner, changed in with_a_word_too_much(value, f"{where}/{index}"):
                yield inner, [*document[:index], changed, *document[index + 1 :]]


def test_the_example_of_another_backend_is_a_configuration() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "collector.md").read_text(), re.DOTALL)
    document = merged(collector("collector.yaml"), parsed(example))
    assert [f"{error.json_path}: {error.message}" for error in validator("collector").iter_errors(document)] == []
    pipelines = document["service"]["pipelines"].values()
    known = {*document["exporters"], *document["connectors"]}
    assert {name for pipeline in pipelines for name in pipeline["exporters"]} <= known
    outside = [set(pipeline["exporters"]) & set(document["exporters"]) for pipeline in pipelines]
    assert set().union(*outside) == {"otlp_http/elsewhere"}


def test_the_collector_merges_maps_and_replaces_lists() -> None:
    first = {"a": {"b": [1, 2], "c": 1}, "d": 1}
    assert merged(first, {"a": {"b": [3]}, "e": 2}) == {"a": {"b": [3], "c": 1}, "d": 1, "e": 2}


def test_promtool_takes_the_configuration_of_prometheus(tmp_path: Path) -> None:
    """Of a Prometheus that is older than ours; the rules that it names are there."""
    shutil.copy(OTEL / "prometheus.yml", tmp_path)
    (tmp_path / "rules").mkdir()
    for name in read(OTEL / "prometheus.yml")["rule_files"]:
        shutil.copy(OTEL / name, tmp_path / name)
    said = subprocess.run(
        [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert "SUCCESS" in said.stdout


def test_promtool_sees_a_word_too_much(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((OTEL / "prometheus.yml").read_text() + "\ntypo: 1\n")
    command = [program("promtool"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def configuration() -> str:
    """All of it that the Collector, Tempo, Loki, Prometheus and Grafana read, without what is said about it."""
    files = [*OTEL.glob("*.y*ml"), *PROVISIONING.rglob("*.yaml")]
    return "\n".join(re.sub(r"(^|\s)#.*", "", path.read_text(), flags=re.MULTILINE) for path in sorted(files))


def test_each_name_of_ours_is_one_of_the_conventions() -> None:
    named = set(re.findall(r"(?<![\w./])(?:luthien|gen_ai)\.[a-z]\w*(?:\.\w+)*", configuration()))
    known = {name for _, name in CONVENTIONS}
    assert named >= {"luthien.outcome", "gen_ai.request.model", "luthien.call_id"}
    assert named - known == FOREIGN


def test_each_label_of_ours_is_one_of_the_conventions() -> None:
    """As Prometheus and Loki spell them: underscores, and a suffix on a metric."""
    labels = set(re.findall(r"\b(?:luthien|gen_ai)_\w+", configuration()))
    known = {name.replace(".", "_") for kind, name in CONVENTIONS if kind == "attribute"}
    known |= {name.replace(".", "_") + "_total" for kind, name in CONVENTIONS if kind == "metric"}
    assert labels
    assert labels <= known


class TestCompose:
    """What docker-compose.yml and these files say of each other."""

    services: dict[str, Any] = read(ROOT / "docker-compose.yml")["services"]

    def test_each_host_is_a_service(self) -> None:
        hosts = set(re.findall(r"(?:http://|url: |endpoint: |\[)([a-z]+):\d+", configuration()))
        assert {"tempo", "loki", "prometheus", "postgres", "collector", "grafana"} <= hosts
        assert hosts - {"localhost"} <= set(self.services)

    def test_each_port_is_one_at_which_its_service_listens(self) -> None:
        """As these files, and what the services and the gateway are told, say where the others are."""
        told = str([[each.get("environment"), each.get("healthcheck")] for each in self.services.values()])
        told += "".join(path.read_text() for path in (OTEL / "gateway").glob("*.yaml"))
        asked = set(re.findall(rf"\b({'|'.join(self.services)}):(\d+)", configuration() + told))
        assert {service for service, _ in asked} == {*self.ports()}
        listening = {(service, str(port)) for service, ports in self.ports().items() for port in ports}
        assert asked - listening == set()

    def ports(self) -> dict[str, set[object]]:
        """At which each service listens, as its file says, or by its program's default."""

        def port_of(address: str) -> str:
            return address.rpartition(":")[2]

        received = collector("collector.yaml")
        own = received["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]["port"]
        otlp = {port_of(each["endpoint"]) for each in received["receivers"]["otlp"]["protocols"].values()}
        tempo = read(OTEL / "tempo.yaml")
        loki = read(OTEL / "loki.yaml")
        return {
            "collector": {*otlp, own},
            "tempo": {
                tempo["server"]["http_listen_port"],
                port_of(tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]),
            },
            "loki": {loki["server"]["http_listen_port"]},
            "prometheus": {9090},
            "grafana": {3000},
            "postgres": {5432},
            "model": {8081},
        }

    def test_each_file_is_where_its_program_looks_for_it(self) -> None:
        grafana = self.services["grafana"]
        mounts = dict(str(volume).split(":")[:2] for volume in grafana["volumes"])
        assert f"{mounts['./dashboards']}/*.json" in grafana["entrypoint"][-1]
        assert mounts["./otel/grafana/provisioning"] == "/etc/grafana/provisioning"
        secrets = re.findall(r"/run/secrets/(\w+)", configuration())
        assert set(secrets) <= set(grafana["secrets"])
        assert "LUTHIEN_PUBLIC_URL" in grafana["environment"]
        for service, name in {"collector": "collector.yaml", "tempo": "tempo.yaml", "loki": "loki.yaml"}.items():
            targets = dict(str(volume).split(":")[:2] for volume in self.services[service]["volumes"])
            command = " ".join(self.services[service]["command"])
            assert targets[f"./otel/{name}"] in command

    def test_each_file_says_the_version_that_runs(self) -> None:
        files = {
            "collector": "collector.yaml",
            "tempo": "tempo.yaml",
            "loki": "loki.yaml",
            "prometheus": "prometheus.yml",
        }
        for service, name in files.items():
            version = self.services[service]["image"].rpartition(":")[2].removeprefix("v")
            assert version in (OTEL / name).read_text().partition("\n")[0], service

    def test_the_folders_that_are_written_are_volumes(self) -> None:
        written = {
            "collector": "/var/lib/otelcol",
            "tempo": "/var/tempo",
            "loki": "/loki",
            "prometheus": "/prometheus",
        }
        for service, folder in written.items():
            assert folder in [str(volume).split(":")[1] for volume in self.services[service]["volumes"]], service
