"""The part of OTTL that the Collector's configuration uses: its grammar, strictly, and what it does.

After the language's documentation; a function that is not listed here, or other arguments, are a mistake.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<int>-?\d+)|(?P<word>[A-Za-z_]\w*)|(?P<sign>[=!<>]=|[][(),.<>]))'
)
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_CONSTANTS: Final = {"nil": None, "true": True, "false": False}
_RESERVED: Final = {*_CONSTANTS, "and", "or", "not", "where"}
_ESCAPES: Final = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}

# What each function takes.
EDITORS: Final = {
    "set": ("path", "value"),
    "delete_key": ("path", "text"),
    "delete_matching_keys": ("path", "regex"),
    "replace_pattern": ("path", "regex", "text"),
    "truncate_all": ("path", "int"),
}
CONVERTERS: Final = {
    "IsMatch": ("value", "regex"),
    "IsString": ("value",),
    "Len": ("value",),
    "String": ("value",),
}
# The paths that a context may name, by the first word, and their fields.
FIELDS: Final = {
    "resource": ("attributes", "cache"),
    "scope": ("attributes", "cache"),
    "span": ("attributes", "cache", "name", "status"),
    "spanevent": ("attributes", "cache", "name"),
    "log": ("attributes", "cache", "body", "event_name"),
}
CONTEXTS: Final = {
    "resource": ("resource",),
    "scope": ("scope", "resource"),
    "span": ("span", "scope", "resource"),
    "spanevent": ("spanevent", "span", "scope", "resource"),
    "log": ("log", "scope", "resource"),
}


class OttlError(ValueError):
    """A statement that the Collector would refuse."""


@dataclass(frozen=True, slots=True)
class Path:
    fields: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | int | bool | None


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """`sign` is a comparison, and, or, not."""

    sign: str
    operands: tuple[Node, ...]


Node = Path | Literal | Call | Operation
Data = dict[str, Any]
"""What a statement sees: for each context's name a dict of its fields."""


@dataclass(frozen=True, slots=True)
class Statement:
    editor: Call
    condition: Node | None


@dataclass
class _Parser:
    text: str
    context: str
    bare: bool
    at: int = 0
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        position = 0
        while self.text[position:].strip():
            found = _TOKEN.match(self.text, position)
            if found is None:
                raise self.wrong(f"nothing begins with {self.text[position : position + 10]!r}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            position = found.end()

    def wrong(self, why: str) -> OttlError:
        return OttlError(f"{why}: {self.text}")

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> tuple[str, str]:
        if self.at >= len(self.tokens) or (wanted and self.peek() != wanted):
            raise self.wrong(f"{wanted or 'more'} is missing")
        self.at += 1
        return self.tokens[self.at - 1]

    def statement(self) -> Statement:
        kind, name = self.take()
        if kind != "word" or name not in EDITORS:
            raise self.wrong(f"{name} is no editor")
        editor = self.call(name, EDITORS[name])
        condition = None
        if self.peek() == "where":
            self.take()
            condition = self.either()
        self.end()
        return Statement(editor, condition)

    def condition(self) -> Node:
        condition = self.either()
        self.end()
        return condition

    def end(self) -> None:
        if self.peek():
            raise self.wrong(f"{self.peek()} is too much")

    def either(self) -> Node:
        operands = [self.both()]
        while self.peek() == "or":
            self.take()
            operands.append(self.both())
        return Operation("or", tuple(operands)) if len(operands) > 1 else operands[0]

    def both(self) -> Node:
        operands = [self.test()]
        while self.peek() == "and":
            self.take()
            operands.append(self.test())
        return Operation("and", tuple(operands)) if len(operands) > 1 else operands[0]

    def test(self) -> Node:
        if self.peek() == "not":
            self.take()
            return Operation("not", (self.test(),))
        if self.peek() == "(":
            self.take()
            inner = self.either()
            self.take(")")
            return inner
        left = self.value()
        if self.peek() in _COMPARISONS:
            return Operation(self.take()[1], (left, self.value()))
        if isinstance(left, Call) and left.name.startswith("Is"):
            return left
        raise self.wrong("neither true nor false")

    def value(self) -> Node:
        kind, token = self.take()
        if kind == "text":
            return Literal(re.sub(r"\\(.)", self.unescaped, token[1:-1]))
        if kind == "int":
            return Literal(int(token))
        if token in _CONSTANTS:
            return Literal(_CONSTANTS[token])
        if kind != "word" or token in _RESERVED:
            raise self.wrong(f"{token} is no value")
        if token in CONVERTERS:
            return self.call(token, CONVERTERS[token])
        return self.path(token)

    def unescaped(self, found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise self.wrong(f"no escape: {found[0]}")
        return _ESCAPES[found[1]]

    def path(self, first: str) -> Path:
        fields = [first]
        while self.peek() == ".":
            self.take()
            fields.append(self.take()[1])
        keys: list[str] = []
        while self.peek() == "[":
            self.take()
            key = self.value()
            if not isinstance(key, Literal) or not isinstance(key.value, str):
                raise self.wrong("a key is a text")
            keys.append(key.value)
            self.take("]")
        if self.bare and fields[0] not in CONTEXTS[self.context]:
            fields.insert(0, self.context)
        if fields[0] not in CONTEXTS[self.context] or len(fields) < 2 or fields[1] not in FIELDS[fields[0]]:
            raise self.wrong(f"{'.'.join(fields)} is not there in {self.context}")
        return Path(tuple(fields), tuple(keys))

    def call(self, name: str, kinds: tuple[str, ...]) -> Call:
        self.take("(")
        arguments: list[Node] = []
        for index, kind in enumerate(kinds):
            if index:
                self.take(",")
            arguments.append(self.argument(name, kind))
        self.take(")")
        return Call(name, tuple(arguments))

    def argument(self, function: str, kind: str) -> Node:
        value = self.value()
        literal = value.value if isinstance(value, Literal) else None
        fits = {
            "value": True,
            "path": isinstance(value, Path),
            "text": isinstance(literal, str),
            "regex": isinstance(literal, str),
            "int": isinstance(literal, int) and not isinstance(literal, bool),
        }[kind]
        if not fits:
            raise self.wrong(f"{function} takes another {kind}")
        if kind == "regex":
            regex(str(literal))
        return value


def statement(text: str, context: str) -> Statement:
    """One statement of a group with this context.

    Raises:
        OttlError: it is none.
    """
    return _Parser(text, context, bare=False).statement()


def condition(text: str, context: str, *, bare: bool = False) -> Node:
    """One condition; where it is `bare`, paths of the context itself are named without it.

    Raises:
        OttlError: it is none.
    """
    return _Parser(text, context, bare=bare).condition()


def regex(pattern: str) -> re.Pattern[str]:
    """A pattern that RE2 and Python understand alike.

    Raises:
        OttlError: RE2 does not know what is in it.
    """
    if re.search(r"\(\?(?!i\)|:)|\\(?![.n\\])|[*+?}]\+|\{\d{4}", pattern):
        raise OttlError(f"not for RE2: {pattern}")
    if re.search(r"\[[^]]*\$", pattern):
        raise OttlError(f"write [.]|$ and not a $ in a class: {pattern}")
    return re.compile(pattern.replace("$", r"\Z"))


def run(statement: Statement, data: Data) -> None:
    if statement.condition is not None and not value_of(statement.condition, data):
        return
    path, *others = statement.editor.arguments
    assert isinstance(path, Path)
    arguments = [value_of(other, data) for other in others]
    target = value_of(path, data)
    match statement.editor.name:
        case "set" if arguments[0] is not None:
            _set(path, data, arguments[0])
        case "delete_key":
            target.pop(arguments[0], None)
        case "delete_matching_keys":
            for key in [key for key in target if regex(arguments[0]).search(key)]:
                del target[key]
        case "replace_pattern" if isinstance(target, str):
            _set(path, data, regex(arguments[0]).sub(arguments[1], target))
        case "truncate_all":
            for key, value in target.items():
                if isinstance(value, str):
                    target[key] = value.encode()[: arguments[0]].decode(errors="ignore")


def value_of(node: Node, data: Data) -> Any:
    match node:
        case Literal(value):
            return value
        case Path(fields, keys):
            return _at(data, (*fields, *keys))
        case Operation("and", operands):
            return all(value_of(each, data) for each in operands)
        case Operation("or", operands):
            return any(value_of(each, data) for each in operands)
        case Operation("not", (operand,)):
            return not value_of(operand, data)
        case Operation(sign, (left, right)):
            values = (value_of(left, data), value_of(right, data))
            if None in values and sign not in ("==", "!="):
                return False
            return _COMPARISONS[sign](*values)
        case Call(name, arguments):
            return _converted(name, [value_of(each, data) for each in arguments])
    raise AssertionError(node)


def _converted(name: str, arguments: list[Any]) -> Any:
    value = arguments[0]
    match name:
        case "IsString":
            return isinstance(value, str)
        case "IsMatch":
            return value is not None and regex(arguments[1]).search(str(value)) is not None
        case "Len":
            return len(value)
        case "String":
            return value if isinstance(value, str) else json.dumps(value)
    raise AssertionError(name)


def _at(data: Data, path: tuple[str, ...]) -> Any:
    found: Any = data
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _set(path: Path, data: Data, value: Any) -> None:
    *parents, last = (*path.fields, *path.keys)
    _at(data, tuple(parents))[last] = value
