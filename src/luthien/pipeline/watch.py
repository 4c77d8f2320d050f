"""What a stream violates on its two sides: the provider's mistakes told apart from our own."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Sequence

from luthien.formats.format import MAX_ASSEMBLED_BYTES, WireFormat
from luthien.formats.sse import Chunk
from luthien.formats.validators import validator_of
from luthien.formats.validity import Validator, Violation

_MAX_BEHIND = 1024
"""How many frames the client's side may be behind before both are looked at on their own."""


class Watch:
    """Counts the rules that one side of a stream breaks."""

    def __init__(self, validator: Validator | None) -> None:
        self.validator = validator
        """None once nothing more is looked at."""
        self.violations: Counter[str] = Counter()
        self.quirks: Counter[str] = Counter()

    def passed(self, chunk: Chunk) -> None:
        if self.validator is not None and (found := self.validator.check(chunk)):
            self._count(found)

    def ended(self) -> None:
        """The stream is over, and that was all of it."""
        if self.validator is not None:
            self._count(self.validator.end())
            self.validator = None

    def _count(self, found: Sequence[Violation]) -> None:
        for each in found:
            (self.quirks if each.is_quirk else self.violations)[each.rule] += 1


class SidesWatch:
    """Watches both sides of one stream: while the client gets the very frames that came, each is looked at once.

    Of a stream that is longer than what is put together, only the beginning is looked at.
    """

    def __init__(self, wire_format: WireFormat) -> None:
        self._left_bytes = MAX_ASSEMBLED_BYTES
        self._original = Watch(validator_of(wire_format))
        self._final: Watch | None = None
        self._behind: deque[Chunk] = deque()
        """What came and was neither given nor looked at; empty once there are two watches."""

    def arrived(self, chunks: Sequence[Chunk], size_bytes: int) -> None:
        """The provider sent these."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            self._part().validator = self._original.validator = None
        if self._final is None:
            self._behind += chunks
            if len(self._behind) > _MAX_BEHIND:
                self._part()
        else:
            for chunk in chunks:
                self._original.passed(chunk)

    def given(self, chunks: Sequence[Chunk]) -> None:
        """The client was given these."""
        behind = self._behind
        for chunk in chunks:
            if behind and behind[0] is chunk:
                behind.popleft()
                self._original.passed(chunk)
            else:
                self._part().passed(chunk)

    def ended(self) -> None:
        """The provider has sent all it had to."""
        self._part()
        self._original.ended()

    def closed(self) -> None:
        """The client has been given its end."""
        self._part().ended()

    @property
    def upstream(self) -> Counter[str]:
        """How often the provider broke which rule."""
        self._part()
        return self._original.violations

    @property
    def gateway(self) -> Counter[str]:
        """What is broken on the client's side only, quirks as well: nobody but us can have done it."""
        final, original = self._part(), self._original
        if self._left_bytes < 0:
            return Counter()
        broken = final.violations + final.quirks
        known = original.violations.keys() | original.quirks.keys()
        return Counter({rule: count for rule, count in broken.items() if rule not in known})

    def _part(self) -> Watch:
        """From here on the sides are looked at on their own; returns the client's."""
        if self._final is None:
            self._final = copy.deepcopy(self._original)
            while self._behind:
                self._original.passed(self._behind.popleft())
        return self._final
