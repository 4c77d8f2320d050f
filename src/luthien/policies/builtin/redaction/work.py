"""What `redact` does to a text: it takes values out, gives them back, or only looks."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Protocol

from luthien.policies.builtin.redaction.checks import is_secret
from luthien.policies.builtin.redaction.detection import Detector, Redactor
from luthien.policies.builtin.redaction.patterns import Kind, is_secret_name
from luthien.policies.builtin.redaction.placeholders import Placeholders, Restorer, in_words
from luthien.policies.builtin.redaction.values import Change
from luthien.policies.builtin.substitution import Replacer, TimeLimit
from luthien.policies.policy import Verdict


class RedactAction(StrEnum):
    MASK = "mask"
    REVERSIBLE = "reversible"
    BLOCK = "block"


class Work(Change, Protocol):
    """What is done to every text; to one that grows, by the replacer."""

    @property
    def replacer(self) -> Replacer: ...


class Redacting:
    """What was found on one side of a call, and what became of it."""

    def __init__(
        self, actions: dict[Kind, RedactAction], detector: Detector, placeholders: Placeholders, limit: TimeLimit
    ) -> None:
        self.replacer = Redactor(detector, self._replace)
        self.blocked: Counter[Kind] = Counter()
        self._redacted: Counter[Kind] = Counter()
        self._actions = actions
        self._placeholders = placeholders
        self._limit = limit

    @property
    def is_reversible(self) -> bool:
        return RedactAction.REVERSIBLE in self._actions.values()

    def text(self, text: str, name: str = "") -> str:
        # Only here, in the arguments of a tool, is the name of a value apart from it.
        if name and Kind.SECRET in self._actions and is_secret_name(name) and is_secret(text):
            return self._replace(Kind.SECRET, text)
        return self.replacer.apply(text, self._limit)

    def _replace(self, kind: Kind, value: str) -> str:
        action = self._actions[kind]
        (self.blocked if action is RedactAction.BLOCK else self._redacted)[kind] += 1
        return self._placeholders.of(kind, value) if action is RedactAction.REVERSIBLE else f"[{kind}]"

    def verdict(self, side: str) -> Verdict:
        if self.blocked:
            return Verdict.block(f"the {side} contains {in_words(self.blocked.items())}")
        if not self._redacted:
            return Verdict.allow()
        return Verdict.modify(f"redacted {in_words(self._redacted.items())}", self._redacted.total())


class Restoring:
    """Gives the client its own values back."""

    def __init__(self, replacer: Restorer, limit: TimeLimit) -> None:
        self.replacer = replacer
        self._limit = limit

    def text(self, text: str, name: str = "") -> str:
        return self.replacer.apply(text, self._limit)


class Avoiding:
    """Changes nothing: notes what placeholders stand in the request already."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders

    def text(self, text: str, name: str = "") -> str:
        self._placeholders.avoid(text)
        return text
