"""Policies from a file, a package or an entry point, and what is said of those that are none."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from uuid import UUID

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.formats.registry import OPENAI_CHAT
from luthien.policies import reference
from luthien.policies.builtin.noop import Noop
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext
from luthien.policies.registry import load_chain
from tests.wire import openai_request
from tests.wire_tools import openai_tools

DOCUMENT = Path(__file__).parents[3] / "docs" / "writing-policies.md"
HEAD = "from luthien.policies.policy import Policy, Verdict\nfrom pydantic import BaseModel\n"
PLAIN = f"{HEAD}\nclass Mine(Policy):\n    pass\n"

pytestmark = pytest.mark.usefixtures("fresh_modules")


def chain_of(folder: Path, policy: str, config: str = "{}") -> Chain:
    text = f"policies:\n  - policy: {policy}\n    config: {config}\n"
    return load_chain(ConfigFile(str(folder / "luthien.yaml"), text))


def mistake(folder: Path, policy: str, config: str = "{}") -> str:
    with pytest.raises(ConfigError) as raised:
        chain_of(folder, policy, config)
    (line,) = str(raised.value).splitlines()[1:]
    return line.removeprefix(f"  {folder / 'luthien.yaml'}:")


async def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## In a file\n")[2]
    code, text = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "yaml"))
    assert code is not None
    assert text is not None
    (tmp_path / "my_policy.py").write_text(code[1], encoding="utf-8")
    chain = load_chain(ConfigFile(str(tmp_path / "luthien.yaml"), text[1]))
    run = chain.open(CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=False))
    shouted = await run.on_request(json.dumps(openai_request("Hello")).encode())
    assert json.loads(shouted) == openai_request("HELLO")
    assert chain.steps[0].name == "Shout"


async def test_so_does_the_one_on_blocks(tmp_path: Path) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n### Blocks\n")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    (tmp_path / "my_policy.py").write_text(code[1], encoding="utf-8")
    run = chain_of(tmp_path, "my_policy.py:NoShell").open(CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=False))
    answer = json.loads(await run.on_response(json.dumps(openai_tools("Hm.", ("shell", {}))).encode()))
    assert answer["choices"][0]["message"]["content"] == "Hm.\n\n(a shell command was removed)"
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_file_is_found_beside_the_configuration_and_leaves_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(PLAIN, encoding="utf-8")
    (step,) = chain_of(tmp_path, "sub/mine.py:Mine").steps
    assert (step.name, step.policy.__name__) == ("Mine", "Mine")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["mine.py"]


def test_two_classes_of_one_file_share_its_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLAIN + "class Other(Mine):\n    pass\n", encoding="utf-8")
    first, second = (chain_of(tmp_path, f"mine.py:{name}").steps[0].policy for name in ("Mine", "Other"))
    assert issubclass(second, first)


def test_the_version_follows_the_code_and_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    source = f"{HEAD}\nclass Mine(Policy):\n    class Config(BaseModel):\n        level: int = 1\n"
    path.write_text(source, encoding="utf-8")
    versions = [chain_of(tmp_path, "mine.py:Mine", config).steps[0].version for config in ("{}", "{level: 2}", "{}")]
    path.write_text(source + "    x = 1\n", encoding="utf-8")
    changed = chain_of(tmp_path, "mine.py:Mine").steps[0]
    assert versions[0] == versions[2] != versions[1]
    assert changed.version not in versions
    assert changed.policy.x == 1  # type: ignore[attr-defined]


def test_a_stated_version_stands_for_the_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    source = (
        f'{HEAD}\nclass Mine(Policy):\n    version = "2.1"\n    class Config(BaseModel):\n        level: int = 1\n'
    )
    path.write_text(source, encoding="utf-8")
    versions = [chain_of(tmp_path, "mine.py:Mine", config).steps[0].version for config in ("{}", "{level: 2}")]
    path.write_text(source + "    x = 1\n", encoding="utf-8")
    assert chain_of(tmp_path, "mine.py:Mine").steps[0].version == versions[0]
    assert all(re.fullmatch(r"2\.1\+[0-9a-f]{8}", version) for version in versions)
    assert versions[0] != versions[1]


def test_a_class_of_an_installed_module(tmp_path: Path) -> None:
    (step,) = chain_of(tmp_path, "luthien.policies.builtin.noop:Noop").steps
    assert (step.name, step.policy) == ("Noop", Noop)


def test_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "their_package-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1\n")
    lines = "theirs = their_package:Mine\nbroken = their_package:Nothing\nodd = their_package:Verdict\n"
    (folder / "entry_points.txt").write_text(f"[{reference.GROUP}]\n{lines}")
    (tmp_path / "their_package.py").write_text(PLAIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(reference.installed()["theirs"], EntryPoint)
    (step,) = chain_of(tmp_path, "theirs").steps
    assert (step.name, step.policy.__name__) == ("theirs", "Mine")
    assert "'broken' (their_package:Nothing) cannot be imported: AttributeError" in mistake(tmp_path, "broken")
    assert "that is no policy" in mistake(tmp_path, "odd")
    known = mistake(tmp_path, "nowhere").partition("known are ")[2]
    assert {"theirs", "noop"} <= set(known.split(", "))


@pytest.mark.parametrize(
    ("source", "policy", "message"),
    [
        (None, "mine.py:Mine", "there is no file {folder}/mine.py"),
        ("", "mine.py", "'mine.py' names no class; write mine.py:MyPolicy"),
        ("", "'mine.py:'", "'mine.py:' names no class; write mine.py:MyPolicy"),
        (PLAIN, "mine.py:Nine", "there is no class 'Nine' in mine.py; policies there: Mine"),
        ("", "mine.py:Nine", "there is no class 'Nine' in mine.py; policies there: none"),
        (
            "Mine = 3",
            "mine.py:Mine",
            "'Mine' is of type int that is no policy: it must derive from luthien.policies.policy.Policy",
        ),
        (
            "class Mine: pass",
            "mine.py:Mine",
            "'Mine' is a class that is no policy: it must derive from luthien.policies.policy.Policy",
        ),
        (f"{PLAIN}\n    Config = dict", "mine.py:Mine", "Mine.Config must be a pydantic model"),
        (
            "import json\nimport nowhere_at_all",
            "mine.py:Mine",
            "{folder}/mine.py cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all' (line 2)",
        ),
        ("\n\nx = = 2", "mine.py:Mine", "{folder}/mine.py cannot be imported: SyntaxError: invalid syntax (line 3)"),
        ("raise SystemExit(3)", "mine.py:Mine", "{folder}/mine.py cannot be imported: SystemExit: 3 (line 1)"),
        (
            f"{PLAIN}\n    async def on_response(self, response): return Verdict.allow()",
            "mine.py:Mine",
            "Mine overrides on_response and must override on_chunk too, or say needs = Needs.WHOLE",
        ),
        (
            f"{PLAIN}\n    version = 'a@b'",
            "mine.py:Mine",
            "Mine.version must be up to 40 letters, digits, dots, dashes, not 'a@b'",
        ),
        (None, "nowhere_at_all.module:Mine", "there is no module 'nowhere_at_all'; is its package installed here?"),
        (None, "json.nowhere:Mine", "there is no module 'json.nowhere'; is its package installed here?"),
    ],
)
def test_what_is_no_policy_is_named_with_line_and_key(
    tmp_path: Path, source: str | None, policy: str, message: str
) -> None:
    if source is not None:
        (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    assert mistake(tmp_path, policy) == f"2: policies[0].policy: {message.format(folder=tmp_path)}"


def test_a_mistake_in_its_configuration_is_named_as_for_any_policy(tmp_path: Path) -> None:
    source = f"{PLAIN}\n    class Config(BaseModel):\n        level: int\n"
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    assert mistake(tmp_path, "mine.py:Mine") == "3: policies[0].config.level: is missing"
