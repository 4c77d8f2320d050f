"""`luthien.yaml`: read with the line of every key, so that every mistake is named with its place."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from luthien.config import PUBLIC_UPSTREAMS, Config
from luthien.errors import ConfigError

Loc = tuple[int | str, ...]
"""Where in the file something stands: names of keys, and places in lists."""

_KEY_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
_LIST, _MAPPING = "must be a list", "must be a mapping"
# pydantic's words are Python's; these are those of YAML.
_MESSAGES = {
    "extra_forbidden": "no such key",
    "missing": "is missing",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
}


class _Loader(yaml.SafeLoader):
    """Says where a value stands that looks like a date or a number and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


class ConfigFile:
    """A parsed `luthien.yaml`, and where in it each key stands."""

    def __init__(self, name: str, text: str) -> None:
        self.path = Path(name)
        self.text = text
        self._name = name
        self._lines: dict[Loc, int] = {}
        self._mistakes: list[tuple[int, str]] = []
        self._indexed: set[yaml.Node] = set()
        self.config = Config()
        try:
            self.config = Config.model_validate(self._read(text))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            self._mistakes.append((mark.line + 1 if mark else 1, f"not YAML: {error.problem}"))
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._mistakes.append((line, f"not YAML: the character U+{ord(text[error.position]):04X}"))
        except RecursionError:
            self._mistakes.append((1, "nested too deeply to be read"))
        except ValidationError as error:
            self.blame(error, ())
        self._check_providers(("upstreams",), self.config.upstreams)
        for index, key in enumerate(self.config.keys):
            self._check_providers(("keys", index, "upstreams"), key.upstreams)
        self.check()

    def _check_providers(self, loc: Loc, named: Iterable[str]) -> None:
        for name in named:
            if name not in PUBLIC_UPSTREAMS:
                known = ", ".join(sorted(PUBLIC_UPSTREAMS))
                self.mistake((*loc, name), f"no such provider; known are {known}")

    def _read(self, text: str) -> Any:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        self._index(root, ())
        data = loader.construct_document(root)
        return {} if data is None else data

    def _index(self, node: yaml.Node, loc: Loc) -> None:
        self._lines.setdefault(loc, node.start_mark.line + 1)
        if node in self._indexed:  # by an alias, of which there may be very many, or one to what it is part of
            return
        self._indexed.add(node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at = (*loc, key.value if isinstance(key, yaml.ScalarNode) else "?")
                line = key.start_mark.line + 1
                if at in self._lines:
                    self._mistakes.append((line, f"{_path(at)}: given twice"))
                    continue
                if key.tag not in _KEY_TAGS:
                    self._mistakes.append((line, f"{_path(at)}: keys must be text; put it in quotes"))
                self._lines[at] = line
                self._index(value, at)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._index(item, (*loc, index))

    def mistake(self, loc: Loc, message: str) -> None:
        """Notes a mistake at a key, or at the nearest key above it that is there."""
        found = loc
        while found and found not in self._lines:
            found = found[:-1]
        self._mistakes.append((self._lines.get(found, 1), f"{_path(loc)}: {message}"))

    def blame(self, error: ValidationError, loc: Loc) -> None:
        """Notes every mistake that pydantic found in what stands at `loc`."""
        items = error.errors(include_input=False, include_url=False)
        for item in items:
            where, kind = item["loc"], item["type"]
            # What is wrong inside is not counted, so that the whole then seems too short.
            is_echo = kind == "too_short" and any(len(other["loc"]) > len(where) for other in items)
            if is_echo or kind == "invalid_key" or "[key]" in where:
                continue
            message = _MESSAGES.get(kind) or item["msg"].removeprefix("Value error, ")
            self.mistake((*loc, *where), message[:1].lower() + message[1:])

    def check(self) -> None:
        """Raises `ConfigError` with every mistake noted so far, in the order of the file."""
        if self._mistakes:
            lines = [f"  {self._name}:{line}: {text}" for line, text in sorted(self._mistakes)]
            raise ConfigError("\n".join(["the configuration has mistakes:", *lines]))


def _path(loc: Iterable[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the file"


def read_config(path: Path, *, must_exist: bool = False) -> ConfigFile:
    """The configuration file; the defaults when there is none and none was asked for.

    Raises:
        ConfigError: it cannot be read, or has mistakes; each is named with line and key.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"there is no {path}; create it, or unset LUTHIEN_CONFIG") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return ConfigFile(str(path), text)
