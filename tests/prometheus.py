"""A real Prometheus: Debian's package, on a directory and a port of its own, with our rules."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.playbook import DEADLINE_S, eventually
from tests.programs import program

RULES = Path(__file__).parents[1] / "otel" / "rules" / "luthien.yml"
SCRAPE_INTERVAL = "500ms"
"""A scrape may take no longer; one that does makes its series stale."""

Labels = dict[str, str]


class QueryError(AssertionError):
    """Prometheus does not take a query; the message is its own."""


@dataclass(frozen=True)
class Prometheus:
    """A server that has scraped something."""

    client: httpx.Client

    def now(self, expression: str) -> list[tuple[Labels, float]]:
        """The value of each series at this moment."""
        found = self._ask("query", query=expression)
        assert found["resultType"] == "vector", f"{found['resultType']}: {expression}"
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def scrapes_again(self) -> bool:
        """Waits for a scrape of every target that begins after now."""
        began_s = time.time()
        oldest = f"min(timestamp(up)) > {began_s}"
        return bool(eventually(lambda: self.now(oldest), bool))

    def over(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[tuple[Labels, list[float]]]:
        """The values of each series over time."""
        found = self._ask("query_range", query=expression, start=str(start_s), end=str(end_s), step=str(step_s))
        return [(each["metric"], [float(value) for _, value in each["values"]]) for each in found["result"]]

    def label_values(self, selector: str, label: str) -> list[str]:
        found: list[str] = self._ask(f"label/{label}/values", **{"match[]": selector})
        return found

    def names(self) -> set[str]:
        return {*self._ask("label/__name__/values")}

    def rules(self) -> list[dict[str, Any]]:
        """Every rule as the server sees it: its health, its last error and its alerts."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **parameters: str) -> Any:
        response = self.client.get(f"/api/v1/{what}", params=parameters)
        body = response.json()
        if body["status"] != "success":
            raise QueryError(f"{body['errorType']}: {body['error']}: {parameters.get('query', what)}")
        return body["data"]


def rules() -> list[dict[str, Any]]:
    """Our rules, as they are written."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], *, job: str = "luthien") -> Iterator[Prometheus]:
    """A server that scrapes these addresses, as `host:port`, and evaluates our rules every second."""
    binary = program("prometheus")
    config = {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [*targets]}]}],
    }
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--log.format=logfmt",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=_address(process, log), timeout=DEADLINE_S) as client:
            yield Prometheus(client)
    finally:
        process.kill()  # what it has stored is thrown away
        process.wait(DEADLINE_S)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, once it is ready. The system chose the port, and only the log says which."""

    def said() -> str:
        assert process.poll() is None, log.read_text()
        lines = [line for line in log.read_text().splitlines() if 'msg="Listening on"' in line]
        return lines[0].split("address=")[1].split()[0] if lines else ""

    address = eventually(said, bool)
    assert address, log.read_text()
    url = f"http://{address}"
    ready = eventually(lambda: httpx.get(f"{url}/-/ready").status_code, lambda status: status == 200)
    assert ready == 200, log.read_text()
    return url
