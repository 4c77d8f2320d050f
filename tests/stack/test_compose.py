"""docker-compose.yml: what its clients accept, what it opens, and that all it names is there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from opentelemetry.sdk import environment_variables

from luthien.cli import cli
from luthien.config_file import ConfigFile
from luthien.gateway.configuration import configured
from luthien.settings import Settings
from tests.programs import program
from tests.unit.test_settings import FIELDS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SCRIPTS = Path(sysconfig.get_path("scripts"))

COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("luthien/")}
ONE_SHOT = {"permissions", "migrate"}
PUBLISHED = {"gateway": "127.0.0.1:${GATEWAY_PORT:-8080}:8080", "grafana": "127.0.0.1:${GRAFANA_PORT:-3000}:3000"}
NO_HEALTH_CHECK = {"collector"}
"""Its image holds one program, which cannot ask itself."""


def client(
    *arguments: str, env_file: Path, secrets: str = ".secrets", more: str = ""
) -> subprocess.CompletedProcess[str]:
    """Debian's client, which reads the file, fills it in, and starts nothing; without the .env of a developer."""
    env_file.write_text((f"SECRETS_DIR={secrets}\n" if secrets else "") + more)
    command = [program("docker-compose"), "--env-file", str(env_file), "--file", str(FILE), *arguments]
    return subprocess.run(
        command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False, timeout=60
    )


class TestItIsAccepted:
    def test_by_the_schema_of_the_specification(self) -> None:
        command = [str(SCRIPTS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert checked.returncode == 0, checked.stdout

    @pytest.mark.parametrize("profile", [[], ["--profile", "model"]], ids=["without-the-model", "with-the-model"])
    def test_by_a_client(self, tmp_path: Path, profile: list[str]) -> None:
        read = client(*profile, "config", env_file=tmp_path / "env")
        assert read.returncode == 0, read.stderr
        filled_in = yaml.safe_load(read.stdout)
        # Newer clients leave out what no profile asks for.
        assert SERVICES.keys() - filled_in["services"].keys() <= ({"model"} if not profile else set())
        assert filled_in["services"]["gateway"]["environment"]["LUTHIEN_CONFIG"] == "/etc/luthien/luthien.yaml"
        assert filled_in["secrets"]["luthien_debug_token"]["file"] == str(ROOT / ".secrets" / "luthien_debug_token")

    @pytest.mark.parametrize(
        ("said", "second"), [("", "collector.yaml"), ("COLLECTOR_SAMPLING=on\n", "collector.sampling.yaml")]
    )
    def test_tail_sampling_is_one_switch(self, tmp_path: Path, said: str, second: str) -> None:
        read = client("config", env_file=tmp_path / "env", more=said)
        service = yaml.safe_load(read.stdout)["services"]["collector"]
        mounted = dict(reversed(each.split(":")[:2]) for each in service["volumes"])
        paths = [mounted[option.removeprefix("--config=")] for option in service["command"]]
        assert paths == [str(ROOT / "otel" / "collector.yaml"), str(ROOT / "otel" / second)]

    def test_by_nobody_before_there_are_secrets_and_then_it_says_what_to_do(self, tmp_path: Path) -> None:
        read = client("config", env_file=tmp_path / "env", secrets="")
        assert read.returncode != 0
        assert "make secrets" in read.stderr
        assert re.search(r"^secrets:", (ROOT / "Makefile").read_text(), re.MULTILINE)

    def test_and_the_dockerfile_by_its_linter(self) -> None:
        checked = subprocess.run(
            [SCRIPTS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60
        )
        assert checked.returncode == 0, checked.stdout


class TestWhatItOpens:
    def test_two_ports_and_only_to_this_machine(self) -> None:
        opened = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert opened == {name: [port] for name, port in PUBLISHED.items()}

    def test_only_they_are_on_the_network_from_which_there_is_a_way_out(self) -> None:
        networks = COMPOSE["networks"]
        assert [name for name, network in networks.items() if not network.get("internal")] == ["outside"]
        assert {name for name, each in SERVICES.items() if "outside" in each.get("networks", [])} == set(PUBLISHED)
        for name, service in SERVICES.items():  # one that says nothing would be on a network of its own making
            assert service.get("network_mode") == "none" or set(service["networks"]) <= set(networks), name

    def test_calls_of_this_machine_are_trusted_and_those_of_other_containers_are_not(self) -> None:
        [config] = COMPOSE["networks"]["outside"]["ipam"]["config"]
        trusted = Settings(trusted_networks=SERVICES["gateway"]["environment"]["LUTHIEN_TRUSTED_NETWORKS"])
        assert [str(network) for network in trusted.trusted_networks if not network.is_loopback] == [
            f"{config['gateway']}/32"
        ]

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_has_no_privileges_and_can_write_only_where_it_is_said(self, name: str) -> None:
        service = SERVICES[name]
        assert service["cap_drop"] == ["ALL"]
        assert service.get("cap_add", []) == (["CHOWN"] if name == "permissions" else [])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert "privileged" not in service
        assert "/tmp" in service["tmpfs"]
        assert str(service.get("user", "")).startswith("0") is (name == "permissions")
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


class TestSecrets:
    def test_each_has_a_file_that_the_script_makes(self, tmp_path: Path) -> None:
        script = tmp_path / "otel" / "make-secrets.sh"
        script.parent.mkdir()
        shutil.copy(ROOT / "otel" / "make-secrets.sh", script)
        bound = tmp_path / "otel" / "rules" / "alerts.yml"
        bound.parent.mkdir(mode=0o700)
        bound.touch(mode=0o600)

        def made() -> dict[str, str]:
            subprocess.run(["/bin/sh", script], check=True, capture_output=True, timeout=60)
            return {path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()}

        first = made()
        assert first.keys() == COMPOSE["secrets"].keys()
        for name, secret in COMPOSE["secrets"].items():
            assert re.fullmatch(r"\$\{SECRETS_DIR:\?[^}]*\}/" + name, secret["file"])
        passwords = [secret for name, secret in first.items() if not name.startswith("database_url")]
        assert len(set(passwords)) == len(passwords)
        assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
        assert first["postgres_gateway_password"] in first["database_url_gateway"]
        assert (tmp_path / ".secrets").stat().st_mode & 0o777 == 0o700
        assert bound.parent.stat().st_mode & 0o777 == 0o755
        assert bound.stat().st_mode & 0o777 == 0o644
        assert (tmp_path / ".env").read_text() == "SECRETS_DIR=./.secrets\n"
        (tmp_path / ".secrets" / "database_url_owner").unlink()
        assert made() == first, "what a database was made with stays"

    def test_each_is_asked_for_and_none_that_is_not_there(self) -> None:
        asked = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
        assert asked == COMPOSE["secrets"].keys()
        for name, service in SERVICES.items():
            named = re.findall(r"/run/secrets/(\w+)", str(service))
            assert set(named) <= set(service.get("secrets", [])), name

    def test_none_stands_in_the_file_or_comes_from_the_environment(self) -> None:
        for name, service in SERVICES.items():
            for variable, value in service.get("environment", {}).items():
                if re.search(r"PASSWORD|SECRET_KEY|TOKEN|DATABASE_URL", variable):
                    assert variable.endswith("_FILE"), f"{name}: {variable}"
                    assert value.startswith("/run/secrets/"), f"{name}: {variable}"
        assert not re.search(r"://[^/\s]*:[^/\s]*@", FILE.read_text())

    def test_git_and_the_image_leave_them_out(self) -> None:
        ignored = (ROOT / ".gitignore").read_text().split()
        assert {".secrets/", ".env"} <= set(ignored)
        kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        assert kept[0] == "*"
        assert not any("secrets" in line or "env" in line for line in kept)


class TestWhatItNames:
    @pytest.mark.parametrize("name", SERVICES)
    def test_an_image_by_a_tag_that_does_not_move(self, name: str) -> None:
        image = SERVICES[name]["image"]
        assert re.search(r":v?\d+(\.\d+)+$", image), image

    def test_our_images_by_the_version_and_a_target_of_the_dockerfile(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        for name in OURS:
            target = SERVICES[name]["build"]["target"]
            assert SERVICES[name]["image"] == f"luthien/{target}:{version}"
            assert f" AS {target}\n" in dockerfile
        assert f'image.version="{version}"' in dockerfile
        bases = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", dockerfile, re.MULTILINE)
        assert {image for image, _ in bases} - {stage for _, stage in bases} == {"python:3.13.16-slim-trixie"}

    def test_files_that_are_in_the_repository(self) -> None:
        missing = []
        for name, service in SERVICES.items():
            for volume in service.get("volumes", []):
                source, _target, *mode = volume.split(":")
                if source in COMPOSE["volumes"]:
                    continue
                assert mode == ["ro"], f"{name}: {volume}"
                if not (ROOT / source).exists():
                    missing.append(source)
        assert missing == []

    def test_volumes_that_are_used(self) -> None:
        used = {volume.split(":")[0] for each in SERVICES.values() for volume in each.get("volumes", [])}
        assert {source for source in used if not source.startswith("./")} == COMPOSE["volumes"].keys()

    def test_variables_that_there_are(self) -> None:
        known = set(FIELDS) | {f"{name}_FILE" for name in FIELDS} | set(vars(environment_variables))
        for name in OURS:
            assert set(SERVICES[name].get("environment", {})) <= known, name

    def test_commands_and_options_that_there_are(self) -> None:
        commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
        called = [SERVICES["migrate"]["command"], ast.literal_eval(_last(r"^CMD (.*)$"))]
        for command, *arguments in called:
            known = {option for parameter in commands[command].params for option in parameter.opts}
            assert {argument for argument in arguments if argument.startswith("--")} <= known

    def test_modules_that_there_are(self) -> None:
        text = FILE.read_text() + (ROOT / "Dockerfile").read_text()
        modules = set(re.findall(r"""-m["\s,]+(luthien[\w.]*)""", text))
        assert modules == {"luthien.health", "luthien.demo.model_server"}
        for module in modules:
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=60)

    @pytest.mark.parametrize("name", ["luthien.yaml", "model.yaml"])
    def test_configurations_that_the_gateway_takes(self, name: str) -> None:
        path = ROOT / "otel" / "gateway" / name
        config = configured(ConfigFile(str(path), path.read_text())).config
        model = f"http://model:{SERVICES['model']['healthcheck']['test'][-1].split(':')[-1].split('/')[0]}"
        expected = {model} if name == "model.yaml" else {"https://api.openai.com", "https://api.anthropic.com"}
        assert {config.upstream_url("openai"), config.upstream_url("anthropic")} == expected


class TestDashboards:
    def test_the_copies_that_grafana_is_given_lead_to_the_address_of_the_pages(self, tmp_path: Path) -> None:
        *shell, script = SERVICES["grafana"]["entrypoint"]
        for there, here in (
            ("/etc/grafana/dashboards", str(ROOT / "dashboards")),
            ("/tmp/dashboards", str(tmp_path / "copies")),
            ("/run.sh", "echo started"),
            ("$$", "$"),  # as compose reads it
        ):
            assert there in script
            script = script.replace(there, here)
        pages = "http://localhost:18080"
        ran = subprocess.run(
            [*shell, script],
            env={"PATH": "/usr/bin:/bin", "LUTHIEN_PUBLIC_URL": pages},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ran.stdout == "started\n"
        for source in (ROOT / "dashboards").glob("*.json"):
            copy = (tmp_path / "copies" / source.name).read_text()
            assert copy == source.read_text().replace("http://localhost:8080", pages)
            assert (pages in copy) is (source.name != "runbooks.json")
        provider = yaml.safe_load((ROOT / "otel/grafana/provisioning/dashboards/dashboards.yaml").read_text())
        assert [each["options"]["path"] for each in provider["providers"]] == ["/tmp/dashboards"]


class TestTheOrder:
    @pytest.mark.parametrize("name", SERVICES)
    def test_waits_for_what_can_come_true(self, name: str) -> None:
        for other, wanted in SERVICES[name].get("depends_on", {}).items():
            checks = SERVICES[other].get("healthcheck", {})
            expected = {
                "service_healthy": "test" in checks,
                "service_completed_successfully": other in ONE_SHOT,
                "service_started": other in NO_HEALTH_CHECK,
            }
            assert expected[wanted["condition"]], f"{name} waits for {other}"
            assert "profiles" not in SERVICES[other]

    def test_everything_that_stays_says_whether_it_is_well(self) -> None:
        silent = {name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})}
        assert silent == ONE_SHOT | NO_HEALTH_CHECK

    def test_the_gateway_does_not_wait_for_those_who_watch_it(self) -> None:
        """Calls are served and recorded without any of them."""
        assert SERVICES["gateway"]["depends_on"].keys() == {"migrate", "collector"}
        assert SERVICES["collector"]["depends_on"].keys() == {"permissions"}

    def test_the_gateway_has_longer_to_stop_than_it_takes(self) -> None:
        grace_s = float(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings().grace_s + 15


def _last(pattern: str) -> str:
    found: list[str] = re.findall(pattern, (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return found[-1]
